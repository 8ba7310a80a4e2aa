//! XML documents: a generated tree, then one of several ways to be wrong.

use super::{Case, Random};

/// A case for xmllint.
pub fn case(index: u32, random: &mut Random) -> Case {
    let mut text = document(index, random);
    let harm = if index % 2 == 1 { harm(index / 2, &mut text, random) } else { "valid" };
    let mut arguments: Vec<String> =
        OPTIONS[index as usize % OPTIONS.len()].iter().map(|one| (*one).to_owned()).collect();
    arguments.push("in.xml".to_owned());
    let mut files = vec![("in.xml".to_owned(), text)];
    files.push(("part.xml".to_owned(), b"<part n=\"1\">included</part>\n".to_vec()));
    files.push(("schema.xsd".to_owned(), SCHEMA.as_bytes().to_vec()));
    files.push(("rules.rng".to_owned(), RELAX.as_bytes().to_vec()));
    Case { name: harm.to_owned(), files, arguments }
}

const OPTIONS: [&[&str]; 17] = [
    &["--format"],
    &["--noout", "--valid"],
    &["--noent"],
    &["--c14n"],
    &["--debug"],
    &["--xpath", "//item[@id > 2]/text()"],
    &["--stream", "--noout"],
    &["--xinclude"],
    &["--recover"],
    &["--html", "--htmlout"],
    &["--sax", "--noout"],
    &["--noout", "--schema", "schema.xsd"],
    &["--noout", "--relaxng", "rules.rng"],
    &["--dropdtd", "--noblanks"],
    &["--pattern", "/list/item", "--stream", "--noout"],
    &["--html", "--debug"],
    &["--exc-c14n"],
];

const SCHEMA: &str = r#"<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
 <xs:element name="list"><xs:complexType mixed="true"><xs:sequence>
  <xs:any minOccurs="0" maxOccurs="unbounded" processContents="skip"/>
 </xs:sequence><xs:attribute name="owner" type="xs:string"/></xs:complexType>
 <xs:key name="ids"><xs:selector xpath="item"/><xs:field xpath="@id"/></xs:key></xs:element>
</xs:schema>
"#;

const RELAX: &str = r#"<grammar xmlns="http://relaxng.org/ns/structure/1.0"><start><element name="list">
 <optional><attribute name="owner"/></optional>
 <zeroOrMore><choice><text/><element><anyName/><ref name="any"/></element></choice></zeroOrMore>
</element></start><define name="any"><zeroOrMore><choice><attribute><anyName/></attribute><text/>
 <element><anyName/><ref name="any"/></element></choice></zeroOrMore></define></grammar>
"#;

fn document(index: u32, random: &mut Random) -> Vec<u8> {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    if index % 3 != 2 {
        text.push_str(
            "<!DOCTYPE list [\n<!ELEMENT list ANY>\n<!ELEMENT item ANY>\n<!ELEMENT note (#PCDATA)>\n\
             <!ATTLIST list owner CDATA \"nobody\">\n<!ATTLIST item id CDATA #IMPLIED kind (a|b|c) \"a\">\n\
             <!ENTITY name \"a &amp; b\">\n<!ENTITY twice \"&name;&name;\">\n]>\n",
        );
    }
    text.push_str("<list owner=\"desk\" xmlns:x=\"urn:x\" xmlns:xi=\"http://www.w3.org/2001/XInclude\">\n");
    let entities = index % 3 != 2;
    for id in 0..2 + random.below(5) {
        item(&mut text, id, 0, entities, random);
    }
    if index % 4 == 3 {
        text.push_str("  <xi:include href=\"part.xml\"/>\n");
    }
    text.push_str("</list>\n");
    text.into_bytes()
}

fn item(text: &mut String, id: u32, depth: usize, entities: bool, random: &mut Random) {
    let indent = "  ".repeat(depth + 1);
    text.push_str(&format!("{indent}<item id=\"{id}\" kind=\"{}\">", random.pick(&["a", "b", "c"])));
    match random.below(6) {
        0 => text.push_str("<![CDATA[raw < & > text]]>"),
        1 => text.push_str("<!-- a remark --><x:y x:z=\"1\"/>"),
        2 if entities => text.push_str("&name; and &twice;"),
        3 => text.push_str("&#228;\u{f6}\u{20ac} &lt;"),
        4 => text.push_str("<?target some data?><note>noted</note>"),
        _ => text.push_str("plain text, long enough to be more than a few characters"),
    }
    if depth < 3 && random.below(2) == 0 {
        text.push('\n');
        item(text, id * 10 + 1, depth + 1, entities, random);
        text.push_str(&indent);
    }
    text.push_str("</item>\n");
}

/// Damages a document; returns how.
fn harm(kind: u32, text: &mut Vec<u8>, random: &mut Random) -> &'static str {
    let end = text.len();
    let body = text.windows(6).position(|window| window == b"<list ").unwrap_or(0);
    let mut insert = |piece: &[u8]| {
        let at = text.windows(6).rposition(|window| window == b"</list").unwrap_or(end);
        text.splice(at..at, piece.iter().copied());
    };
    match kind % 12 {
        0 => {
            text.truncate(end - 12);
            "an element that never ends"
        }
        1 => {
            insert(b"<item id=\"1\" id=\"2\"/>");
            "an attribute twice"
        }
        2 => {
            insert(b"&unknown;");
            "an entity that is not declared"
        }
        3 => {
            insert(b"<a><b></a></b>");
            "elements that overlap"
        }
        4 => {
            insert(b"bad bytes \xff\xfe\xc3( here");
            "bytes that are no UTF-8"
        }
        5 => {
            insert(b"&#0;&#xFFFFFFFF;&#x110000;");
            "characters that do not exist"
        }
        6 => {
            insert("<deep>".repeat(300).as_bytes());
            "300 elements deep, and open"
        }
        7 => {
            insert(b"<u:undeclared a=b/><!-- -- -->");
            "an attribute without quotes"
        }
        8 => {
            text.splice(body..body, b"<!DOCTYPE again [<!ENTITY e SYSTEM".iter().copied());
            "a second document type"
        }
        9 => {
            insert(&[b"<long ".as_slice(), &b"n".repeat(9000), b"=\"1\"/>"].concat());
            "a very long name"
        }
        10 => {
            insert(b"<![CDATA[ never ends <?pi also <!-- not");
            "a section that never ends"
        }
        _ => {
            for _ in 0..10 {
                let at = random.below(u32::try_from(end).unwrap_or(1)) as usize;
                text[at] = random.below(256) as u8;
            }
            "bytes scattered"
        }
    }
}
