// CSAF under the validator of the German BSI: schema, and all mandatory tests of the standard.
// usage: node validate.mjs MODULES DOCUMENTS
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, documents] = process.argv.slice(2);
const library = join(modules, 'node_modules/@secvisogram/csaf-validator-lib');
const load = (name) => import(pathToFileURL(join(library, name)).href);
const validate = (await load('validate.js')).default;
const { csaf_2_0 } = await load('schemaTests.js');
const mandatory = Object.values(await load('mandatoryTests.js'));

const names = readdirSync(documents).filter((name) => name.endsWith('.csaf.json'));
if (names.length <= 10 || mandatory.length < 30) {
  throw new Error(`${names.length} documents, ${mandatory.length} tests`);
}
for (const name of names) {
  const document = JSON.parse(readFileSync(join(documents, name), 'utf8'));
  // Before the first fix there is nothing to say of any vulnerability.
  const result = await validate([csaf_2_0, ...mandatory], document);
  if (!result.isValid) {
    const faults = result.tests.flatMap((test) => test.errors.map((e) => `${test.name} ${e.instancePath}: ${e.message}`));
    throw new Error(`${name}: ${faults.slice(0, 8).join('\n')}`);
  }
}
console.log(`${names.length} CSAF documents pass the schema and ${mandatory.length} mandatory tests`);
