//! Building an old and a new image for each security fix of a Debian source package.
//!
//! The package's series of patches is applied in order; just before and just after each patch that names a CVE the images
//! are built in one folder with one compiler and one set of flags, so that a pair differs by that fix alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::step::{Functions, Step};
use crate::{command, root, say};

/// How a package is built, from `testdata/corpus/packages.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Only built when named.
    #[serde(default)]
    pub optional: bool,
    /// A target that fails is left out.
    #[serde(default)]
    partial: bool,
    /// Arguments of cmake.
    #[serde(default)]
    cmake: Vec<String>,
    /// More compiler flags.
    #[serde(default)]
    compile: Vec<String>,
}

/// All recipes.
///
/// # Errors
/// If the file is missing or malformed.
pub fn all() -> Result<BTreeMap<String, Recipe>> {
    let file = root::repository().join("testdata/corpus/packages.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is malformed", file.display()))
}

/// Builds `into/STEP/{old,new}` with `step.json` for each fix, unless that was done before.
///
/// # Errors
/// If the package is not to be had or does not build at all.
pub fn build(name: &str, recipe: &Recipe, optimise: &str, into: &Path) -> Result<()> {
    let complete = into.join("complete");
    if complete.is_file() {
        return Ok(());
    }
    say::step(&format!("{name}: building a pair for each fix (once; kept in {})", into.display()));
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    let work = into.join(".work");
    fs::create_dir_all(work.join("download"))?;
    let mut package = Package {
        name,
        recipe,
        optimise,
        source: work.join("src"),
        build: work.join("build"),
        kept: work.join("kept"),
        generation: 0,
        into,
    };
    package.unpack(&work.join("download"))?;
    let steps = package.series()?;
    let built = steps.iter().filter(|step| step.state == "built").count();
    say::done(&format!("{name}: {built} of {} fixes built into image pairs", steps.len()));
    fs::write(into.join("steps.json"), serde_json::to_vec_pretty(&steps)?)?;
    fs::remove_dir_all(&work)?;
    fs::write(complete, "")?;
    Ok(())
}

/// Images by path below the build folder: their kept copies.
type Images = BTreeMap<String, PathBuf>;

struct Package<'a> {
    name: &'a str,
    recipe: &'a Recipe,
    optimise: &'a str,
    source: PathBuf,
    build: PathBuf,
    kept: PathBuf,
    generation: u32,
    into: &'a Path,
}

impl Package<'_> {
    fn unpack(&self, download: &Path) -> Result<()> {
        super::archive::enable_source_packages()?;
        let mut get = command::at(download, "apt-get");
        command::quiet(get.args(["source", "-qq", "--download-only", self.name]))?;
        let mut descriptions: Vec<PathBuf> = fs::read_dir(download)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "dsc"))
            .collect();
        descriptions.sort();
        let description = descriptions.first().context("the archive sent no .dsc file")?;
        let mut unpack = Command::new("dpkg-source");
        unpack.args(["--no-check", "--skip-patches", "-x"]).arg(description).arg(&self.source);
        command::quiet(&mut unpack).map(drop)
    }

    fn series(&mut self) -> Result<Vec<Step>> {
        let text = fs::read_to_string(self.source.join("debian/patches/series"))?;
        let mut steps: Vec<Step> = Vec::new();
        // The images of the tree as it stands, if it is built.
        let mut clean: Option<Images> = None;
        for patch in text.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next()) {
            let body = fs::read(self.source.join("debian/patches").join(patch))?;
            let body = String::from_utf8_lossy(&body).into_owned();
            let cve = cves(patch, &body);
            let Some(first) = cve.first() else {
                self.apply(patch)?;
                clean = None;
                continue;
            };
            let mut step = Step {
                package: self.name.to_owned(),
                step: format!("{:02}-{first}", steps.len() + 1),
                cve,
                patch: patch.to_owned(),
                ..Step::default()
            };
            let old = match clean.take() {
                Some(images) => Some(images),
                None => self.make()?,
            };
            let touched = touched_files(&body);
            let before = super::ctags::functions(&self.source, &touched)?;
            self.apply(patch)?;
            let after = super::ctags::functions(&self.source, &touched)?;
            step.source_functions = Functions::between(&before, &after);
            clean = self.make()?;
            match (&old, &clean) {
                (Some(old), Some(new)) => self.keep_pair(&mut step, old, new)?,
                (None, _) => "the old tree does not build".clone_into(&mut step.state),
                (_, None) => "the new tree does not build".clone_into(&mut step.state),
            }
            say::line(&format!("  {} {}: {}", self.name, step.step, step.state));
            steps.push(step);
        }
        Ok(steps)
    }

    fn apply(&self, patch: &str) -> Result<()> {
        let mut apply = command::at(&self.source, "patch");
        apply.args(["-p1", "-s", "-f", "-i"]).arg(self.source.join("debian/patches").join(patch));
        command::quiet(&mut apply).with_context(|| format!("{patch} does not apply")).map(drop)
    }

    /// Builds the tree as it stands and copies the images aside; `None` if it does not build.
    fn make(&mut self) -> Result<Option<Images>> {
        // One source root in every build: debug records and __FILE__ do not depend on where it is.
        let root = self.into.join(".work").display().to_string();
        let compile = format!(
            "{} -g -gcodeview -fms-hotpatch -ffunction-sections -ffile-prefix-map={root}=. -fdebug-compilation-dir=. -w {}",
            self.optimise,
            self.recipe.compile.join(" ")
        );
        let link = "-fuse-ld=lld -Wl,--pdb= -Wl,--no-insert-timestamp -Wl,-Xlink=/functionpadmin:6";
        if !self.build.join("build.ninja").is_file() {
            let mut cmake = Command::new("cmake");
            cmake.args(["-G", "Ninja", "-DCMAKE_BUILD_TYPE=None", "-DBUILD_SHARED_LIBS=ON"]);
            cmake.arg("-DCMAKE_POLICY_VERSION_MINIMUM=3.5").arg("-S").arg(&self.source).arg("-B").arg(&self.build);
            let toolchain = root::repository().join("testdata/corpus/toolchain.cmake");
            cmake.arg(format!("-DCMAKE_TOOLCHAIN_FILE={}", toolchain.display())).args(&self.recipe.cmake);
            cmake.env("HOTGRAFT_COMPILE", &compile).env("HOTGRAFT_LINK", link);
            command::quiet(&mut cmake)?;
        }
        let mut ninja = Command::new("ninja");
        ninja.args(["-k", "0", "-C"]).arg(&self.build);
        let done = command::finish(&mut ninja)?;
        if done.code != 0 && !self.recipe.partial {
            return Ok(None);
        }
        self.keep_images().map(Some)
    }

    fn keep_images(&mut self) -> Result<Images> {
        self.generation += 1;
        let aside = self.kept.join(self.generation.to_string());
        // Two generations are in use at a time.
        if self.generation > 2 {
            let stale = self.kept.join((self.generation - 2).to_string());
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        let mut images = Images::new();
        let mut left = vec![self.build.clone()];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    if path.file_name().is_some_and(|name| name != "CMakeFiles") {
                        left.push(path);
                    }
                } else if path.extension().is_some_and(|end| end == "exe" || end == "dll")
                    && path.with_extension("pdb").is_file()
                {
                    let relative = path.strip_prefix(&self.build)?.to_string_lossy().into_owned();
                    let to = aside.join(&relative);
                    fs::create_dir_all(to.parent().unwrap_or(&aside))?;
                    fs::copy(&path, &to)?;
                    fs::copy(path.with_extension("pdb"), to.with_extension("pdb"))?;
                    images.insert(relative, to);
                }
            }
        }
        Ok(images)
    }

    /// Copies the images that differ with their PDBs, and the others that they run with.
    fn keep_pair(&self, step: &mut Step, old: &Images, new: &Images) -> Result<()> {
        let mut differ = Vec::new();
        for (relative, path) in new {
            if let Some(before) = old.get(relative)
                && fs::read(before)? != fs::read(path)?
            {
                differ.push(relative.as_str());
            }
        }
        if differ.is_empty() {
            "no image changed".clone_into(&mut step.state);
            return Ok(());
        }
        let folder = self.into.join(&step.step);
        for (side, images) in [("old", old), ("new", new)] {
            let to = folder.join(side);
            fs::create_dir_all(&to)?;
            for (relative, path) in images {
                let Some(name) = path.file_name() else { bail!("{} has no name", path.display()) };
                fs::copy(path, to.join(name))?;
                if differ.contains(&relative.as_str()) {
                    let pdb = path.with_extension("pdb");
                    fs::copy(&pdb, to.join(pdb.file_name().unwrap_or(name)))?;
                }
            }
        }
        step.images = differ
            .iter()
            .map(|relative| Path::new(relative).file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        "built".clone_into(&mut step.state);
        fs::write(folder.join("step.json"), serde_json::to_vec_pretty(step)?)?;
        Ok(())
    }
}

/// The CVE ids in a patch's name and in its head, sorted.
fn cves(name: &str, body: &str) -> Vec<String> {
    let head = body.split("\n--- ").next().unwrap_or_default();
    let text = format!("{name}\n{head}");
    let mut found = Vec::new();
    for (at, _) in text.match_indices("CVE-") {
        let rest: Vec<&str> = text[at + 4..].splitn(2, '-').collect();
        if let [year, tail] = rest[..]
            && year.len() == 4
            && year.bytes().all(|byte| byte.is_ascii_digit())
        {
            let digits: String = tail.chars().take_while(char::is_ascii_digit).collect();
            if digits.len() >= 4 {
                found.push(format!("CVE-{year}-{digits}"));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The files that a patch changes, below the source's root.
fn touched_files(body: &str) -> Vec<String> {
    let names = body.lines().filter_map(|line| line.strip_prefix("+++ "));
    let mut files: Vec<String> = names
        .filter_map(|name| name.split_whitespace().next()?.split_once('/').map(|(_, path)| path.to_owned()))
        .collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::{cves, touched_files};

    #[test]
    fn ids_come_from_name_and_head_only() {
        let body = "Description: for CVE-2024-12345 and CVE-20x\n--- a/x.c\n+++ b/x.c\n CVE-2020-0001\n";
        assert_eq!(cves("0007-CVE-2023-0800.patch", body), ["CVE-2023-0800", "CVE-2024-12345"]);
        assert!(cves("fix.patch", "nothing").is_empty());
    }

    #[test]
    fn files_lose_their_first_folder() {
        let body = "--- a/lib/x.c\n+++ b/lib/x.c\t2020-01-01\n+++ /dev/null\n";
        assert_eq!(touched_files(body), ["dev/null", "lib/x.c"].map(str::to_owned));
    }
}
