//! Comparisons in the formats of BinExport and BinDiff, so that tools which read these can open them.
//!
//! [`binexport::export`] makes the protocol buffer of one image; [`write_results`] writes both images' and the `.BinDiff`
//! database that connects them. Facts about the formats are those of the published `binexport2.proto` and of the tables
//! that BinDiff's database writer makes. Written files hold no clock: the same input gives the same bytes.

pub mod binexport;
mod flow;
mod operands;
pub mod proto;
mod results;

use hotgraft_diff::Comparison;
use hotgraft_program::Program;
use prost::Message;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database cannot be made.
    #[error("cannot make the database: {0}")]
    Database(#[from] rusqlite::Error),
}

/// An image and the name of its file.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// The program.
    pub program: &'a Program,
    /// File name, without folders.
    pub name: &'a str,
}

/// Files to write; what is `None` is not written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// BinExport of the old and of the new image.
    pub exports: Option<(&'a Path, &'a Path)>,
    /// The results.
    pub results: Option<&'a Path>,
}

/// Writes what is asked for. A file appears only once it is complete.
///
/// # Errors
/// If a file cannot be written.
pub fn write_results(old: Image<'_>, new: Image<'_>, comparison: &Comparison, files: &Files<'_>) -> Result<(), Error> {
    let (x, y) = rayon::join(|| flow::graphs(old.program), || flow::graphs(new.program));
    if let Some((first, second)) = files.exports {
        for (path, image, graphs) in [(first, old, &x), (second, new, &y)] {
            let bytes = binexport::from_graphs(image.program, image.name, graphs).encode_to_vec();
            complete(path, |file| {
                file.write_all(&bytes).map_err(|source| Error::Io { path: path.to_owned(), source })
            })?;
        }
    }
    if let Some(path) = files.results {
        let (first, second) =
            files.exports.map_or((old.name.to_owned(), new.name.to_owned()), |(a, b)| (stem(a), stem(b)));
        let old = results::Side { program: old.program, image: old.name, export: &first, graphs: &x };
        let new = results::Side { program: new.program, image: new.name, export: &second, graphs: &y };
        complete(path, |file| results::write(file.path(), &old, &new, comparison))?;
    }
    Ok(())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Fills a temporary file beside `path`, then puts it in its place.
fn complete(path: &Path, fill: impl FnOnce(&mut tempfile::NamedTempFile) -> Result<(), Error>) -> Result<(), Error> {
    let fail = |source| Error::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).is_ok_and(|place| !place.is_file()) {
        return Err(fail(std::io::Error::other("it is no regular file, and would be replaced by one")));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".hotgraft-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(fail)?;
    fill(&mut file)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
