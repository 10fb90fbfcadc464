//! The file of the embedded store: made whole or not at all, looked at before anything is written to it, and opened again
//! after an error of the disk, because redb takes none of its work back after one. What is in it is not known here, but
//! that every session can be read.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, PoisonError, RwLock};

use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, ReadableTable as _, StorageError,
    TableError,
};

use super::StoreError;
use super::embedded::{NUMBERS, SESSIONS, backend, decode, encode, make_tables};
use crate::host::file_kind::what_it_is;
use crate::session::record::SessionRecord;

/// What this program writes. Raised when an older one could not read it, or would read it wrongly.
const FORMAT: u32 = 1;
/// Where the number stands; a store without one is of the first format.
const FORMAT_KEY: &str = "format";

/// An open store.
#[derive(Debug)]
pub(super) struct StoreFile {
    path: PathBuf,
    /// None after an error, until it could be opened again.
    database: RwLock<Option<Database>>,
    broken: AtomicBool,
}

impl StoreFile {
    /// Opens the file, or makes it. One that is refused is left as it is.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(StoreError::Backend(Box::new(error))),
            Ok(found) if !found.is_file() => return Err(form(path, what_it_is(found.file_type()))),
            // redb would make a new store of it, and nobody would know that another was lost.
            Ok(found) if found.len() == 0 => return Err(form(path, "an empty file")),
            Ok(_) => {}
        }
        let database = left_alone(path, || {
            let database = open(path)?;
            look_through(path, &database)?;
            let transaction = database.begin_write().map_err(backend)?;
            make_tables(&transaction)?;
            transaction.commit().map_err(backend)?;
            Ok(database)
        })?;
        Ok(Self { path: path.to_path_buf(), database: RwLock::new(Some(database)), broken: AtomicBool::new(false) })
    }

    /// Works with the database. After an error of the disk the next to come opens it again first.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.broken.load(Ordering::Acquire) {
            self.open_again()?;
        }
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = database.as_ref().ok_or(StoreError::Stopped).and_then(work);
        if result.as_ref().err().is_some_and(is_of_the_disk) {
            self.broken.store(true, Ordering::Release);
        }
        result
    }

    fn open_again(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have done it meanwhile.
        if self.broken.load(Ordering::Acquire) {
            // Closed before it is opened: there is one of it at a time.
            *database = None;
            *database = Some(quietly(&self.path, || open(&self.path))?);
            self.broken.store(false, Ordering::Release);
            tracing::info!(path = %self.path.display(), "the store is open again after an error of the disk");
        }
        Ok(())
    }
}

/// Makes the store beside its place and puts it there when it is whole: an empty one is then never ours.
fn make(path: &Path) -> Result<(), StoreError> {
    let fresh = path.with_extension("redb.new");
    let io_error = |error: io::Error| StoreError::Backend(Box::new(error));
    drop(std::fs::remove_file(&fresh));
    let made = (|| {
        let database = Database::create(&fresh).map_err(backend)?;
        let transaction = database.begin_write().map_err(backend)?;
        make_tables(&transaction)?;
        transaction
            .open_table(NUMBERS)
            .map_err(backend)?
            .insert(FORMAT_KEY, encode(&FORMAT).as_slice())
            .map_err(backend)?;
        transaction.commit().map_err(backend)?;
        drop(database);
        std::fs::rename(&fresh, path).map_err(io_error)?;
        // The name itself is on disk with its directory.
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all()).map_err(io_error)
    })();
    if made.is_err() {
        drop(std::fs::remove_file(&fresh));
    }
    made
}

/// Opens the file and leaves it as it is when that fails. One that was closed orderly is looked through without writing;
/// another has to be repaired first, which is done with a copy at hand.
fn left_alone<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let kept = path.with_extension("redb.kept");
    let orderly = quietly(path, || match ReadOnlyDatabase::open(path) {
        Ok(database) => look_through(path, &database).map(|()| true),
        Err(_) => Ok(false),
    })?;
    // Without room for a copy it is done without.
    let has_copy = !orderly && std::fs::copy(path, &kept).is_ok();
    let result = quietly(path, work);
    match &result {
        Err(_) if has_copy => drop(std::fs::rename(&kept, path)),
        _ => drop(std::fs::remove_file(&kept)),
    }
    result
}

thread_local! {
    /// Whether a panic of this thread is expected, and answered.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// redb panics over some damaged files: that is an answer about the file, not a fault of this program.
fn quietly<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    QUIET.set(false);
    result.unwrap_or_else(|_| Err(form(path, "a damaged one")))
}

fn open(path: &Path) -> Result<Database, StoreError> {
    Database::open(path).map_err(|error| match error {
        DatabaseError::UpgradeRequired(version) => {
            form(path, &format!("one of the database's own file format {version}"))
        }
        DatabaseError::Storage(StorageError::Corrupted(why)) => form(path, &format!("a damaged one ({why})")),
        DatabaseError::Storage(StorageError::Io(why))
            if matches!(why.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            form(path, &format!("another or a damaged file ({why})"))
        }
        other => backend(other),
    })
}

fn form(path: &Path, found: &str) -> StoreError {
    StoreError::Form { path: path.to_path_buf(), found: found.to_owned() }
}

/// Whether this program can read all of it. Writes nothing.
fn look_through(path: &Path, database: &impl ReadableDatabase) -> Result<(), StoreError> {
    let transaction = database.begin_read().map_err(backend)?;
    let missing = |error| match error {
        TableError::TableDoesNotExist(name) => form(path, &format!("a database without the table {name}")),
        other => backend(other),
    };
    let numbers = transaction.open_table(NUMBERS).map_err(missing)?;
    let found: u32 = match numbers.get(FORMAT_KEY).map_err(backend)? {
        Some(number) => decode(number.value())?,
        None => FORMAT,
    };
    if found != FORMAT {
        return Err(StoreError::Format { path: path.to_path_buf(), expected: FORMAT, found });
    }
    let sessions: ReadOnlyTable<&[u8], &[u8]> = transaction.open_table(SESSIONS).map_err(missing)?;
    for entry in sessions.iter().map_err(backend)? {
        let (id, bytes) = entry.map_err(backend)?;
        if let Err(why) = decode::<SessionRecord>(bytes.value()) {
            let why = format!("session {}: {why}", hex::encode(id.value()));
            return Err(StoreError::Unreadable { path: path.to_path_buf(), why });
        }
    }
    Ok(())
}

/// Whether redb refuses everything from here on until it is opened again.
fn is_of_the_disk(error: &StoreError) -> bool {
    let StoreError::Backend(source) = error else { return false };
    matches!(source.downcast_ref::<redb::Error>(), Some(redb::Error::Io(_) | redb::Error::PreviousIo))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::record::fixtures::record;

    /// A store that holds one session, closed orderly; and what is then changed in it.
    fn store(change: impl FnOnce(&redb::WriteTransaction)) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("coffer.redb");
        let file = StoreFile::open(&path).expect("made");
        let write = |database: &Database| {
            let transaction = database.begin_write().map_err(backend)?;
            put(&transaction, &encode(&record(1)));
            change(&transaction);
            transaction.commit().map_err(backend)
        };
        file.with(write).expect("written");
        (dir, path)
    }

    fn put(transaction: &redb::WriteTransaction, bytes: &[u8]) {
        let mut sessions = transaction.open_table(SESSIONS).expect("table");
        sessions.insert(record(1).id.as_bytes().as_slice(), bytes).expect("insert");
    }

    fn refused(change: impl FnOnce(&redb::WriteTransaction)) -> String {
        let (dir, path) = store(change);
        let before = std::fs::read(&path).expect("read");
        let error = StoreFile::open(&path).expect_err("refused").to_string();
        assert_eq!(std::fs::read(&path).expect("read"), before, "it is left as it is: {error}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1, "and nothing beside it");
        error
    }

    #[test]
    fn a_store_of_another_version_is_refused_in_words_and_left_as_it_is() {
        for number in [0, FORMAT + 1] {
            let error = refused(|transaction| {
                let mut numbers = transaction.open_table(NUMBERS).expect("table");
                numbers.insert(FORMAT_KEY, encode(&number).as_slice()).expect("insert");
            });
            let words = format!("to have format {FORMAT}, found {number}: run the cofferd that wrote it");
            assert!(error.contains(&words), "{error}");
        }
        let newer = |from: &str, to: &str| {
            let text = String::from_utf8(encode(&record(1))).expect("text");
            assert!(text.contains(from), "{text}");
            let changed = text.replacen(from, to, 1);
            refused(|transaction| put(transaction, changed.as_bytes()))
        };
        for (from, to, word) in [
            ("{", "{\"region\":\"eu\",", "unknown field `region`"),
            ("\"requested\"", "\"frozen\"", "unknown variant `frozen`"),
            ("}", "", "session 0101"),
        ] {
            let error = newer(from, to);
            assert!(error.contains(word) && error.contains("run the cofferd that wrote it"), "{word}: {error}");
        }
    }

    #[test]
    fn a_store_without_a_number_is_of_the_first_format() {
        let (_dir, path) = store(|transaction| {
            let mut numbers = transaction.open_table(NUMBERS).expect("table");
            numbers.remove(FORMAT_KEY).expect("remove");
        });
        StoreFile::open(&path).expect("opened");
    }

    #[test]
    fn no_cut_of_a_store_panics_and_each_is_left_as_it_is() {
        let (_dir, path) = store(|_| ());
        let whole = std::fs::read(&path).expect("read");
        for length in (0..whole.len()).step_by(whole.len() / 37) {
            std::fs::write(&path, &whole[..length]).expect("write");
            let found = StoreFile::open(&path);
            assert!(matches!(found, Err(StoreError::Form { .. })), "{length} of {}: {found:?}", whole.len());
            assert_eq!(std::fs::read(&path).expect("read"), whole[..length], "{length}");
        }
        std::fs::write(&path, &whole).expect("write");
        StoreFile::open(&path).expect("whole again");
    }

    #[test]
    fn after_an_error_of_the_disk_the_store_is_opened_again() {
        let (_dir, path) = store(|_| ());
        let file = StoreFile::open(&path).expect("open");
        let full = || StoreError::Backend(Box::new(redb::Error::Io(io::ErrorKind::StorageFull.into())));
        file.with(|_| Err::<(), _>(full())).expect_err("full");
        // Its file was replaced meanwhile: what is read next is what stands there now.
        let (_other, other) = store(|transaction| {
            let mut sessions = transaction.open_table(SESSIONS).expect("table");
            sessions.remove(record(1).id.as_bytes().as_slice()).expect("remove");
        });
        std::fs::rename(other, &path).expect("rename");
        let sessions = |database: &Database| {
            let transaction = database.begin_read().map_err(backend)?;
            let table = transaction.open_table(SESSIONS).map_err(backend)?;
            Ok(table.iter().map_err(backend)?.count())
        };
        assert_eq!(file.with(sessions).expect("again"), 0);
    }
}
