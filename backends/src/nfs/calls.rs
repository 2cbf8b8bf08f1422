//! The NFS procedures that are used, typed.

use std::sync::Arc;

use nfs3_types::nfs3::{
    COMMIT3args, CREATE3args, FSINFO3args, FSINFO3resok, FSSTAT3args, FSSTAT3resok, GETATTR3args, LINK3args,
    LOOKUP3args, NFS_PROGRAM, Nfs3Option, READ3args, READDIRPLUS3args, REMOVE3args, RENAME3args,
    SETATTR3args, cookieverf3, createhow3, createverf3, diropargs3, fattr3, filename3, nfs_fh3, nfsstat3,
    sattr3, set_atime, set_mtime, stable_how, wcc_data, writeverf3,
};
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};

use super::connection::{CallError, Connection, Reply, Request};
use super::errors::Trouble;
use super::held::Part;
use super::message::encode_call;
use super::records::Target;
use super::server::{Answer, Server, ServerError, Understood};
use super::xdr::{Cursor, Malformed};

/// The longest file handle of NFSv3.
const HANDLE_BYTES_MAX: usize = 64;
const FILE_NAME_BYTES_MAX: usize = 1024;
/// Directory pages asked for.
const DIRECTORY_PAGE_BYTES: u32 = 64 << 10;
/// COMMIT may flush much: it gets this many times the usual patience.
const COMMIT_PATIENCE: u32 = 10;

/// What LOOKUP tells.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) handle: nfs_fh3,
    pub(super) attributes: Option<fattr3>,
}

/// What CREATE tells.
#[derive(Debug)]
pub(super) struct Created {
    /// Servers may leave it to a LOOKUP.
    pub(super) handle: Option<nfs_fh3>,
}

/// One name of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) cookie: u64,
    pub(super) attributes: Option<fattr3>,
}

/// A part of a directory.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) verifier: cookieverf3,
    pub(super) end: bool,
}

/// Whether a call was repeated because its first answer was lost, beside its result.
#[derive(Debug)]
pub(super) struct Repeatable<T> {
    pub(super) result: Result<T, Trouble>,
    pub(super) repeated: bool,
}

fn in_directory<'a>(directory: &nfs_fh3, name: &'a str) -> diropargs3<'a> {
    diropargs3 { dir: directory.clone(), name: filename3(Opaque::borrowed(name.as_bytes())) }
}

/// Checks the status and reads the rest of the results.
fn results<T>(reply: &Reply, read: impl Fn(&mut Cursor<'_>) -> Result<T, Malformed>) -> Understood<T> {
    let Reply::Results(results) = reply else {
        return Err(Malformed("read data where none was asked for"));
    };
    let mut cursor = Cursor::new(results);
    match cursor.status()? {
        nfsstat3::NFS3_OK => read(&mut cursor).map(Ok),
        status => Ok(Err(status)),
    }
}

fn handle(cursor: &mut Cursor<'_>) -> Result<nfs_fh3, Malformed> {
    Ok(nfs_fh3 { data: Opaque::owned(cursor.opaque(HANDLE_BYTES_MAX)?.to_vec()) })
}

fn optional_handle(cursor: &mut Cursor<'_>) -> Result<Option<nfs_fh3>, Malformed> {
    if cursor.bool()? { handle(cursor).map(Some) } else { Ok(None) }
}

impl Server {
    fn request(&self, procedure: NFS_PROGRAM, args: &impl Pack) -> Request {
        let head = encode_call(procedure, &self.credential, args);
        Request { head, data: None, target: None, patience: self.patience }
    }

    async fn simple<T>(
        &self,
        procedure: NFS_PROGRAM,
        args: &(impl Pack + Sync),
        read: impl Fn(&mut Cursor<'_>) -> Result<T, Malformed> + Send + Sync,
    ) -> Result<T, Trouble> {
        self.repeatable(procedure, args, read).await.result
    }

    async fn repeatable<T>(
        &self,
        procedure: NFS_PROGRAM,
        args: &(impl Pack + Sync),
        read: impl Fn(&mut Cursor<'_>) -> Result<T, Malformed> + Send + Sync,
    ) -> Repeatable<T> {
        let request = || self.request(procedure, args);
        match self.call(&request, &|reply| results(reply, &read)).await {
            Err(error) => Repeatable { result: Err(error.into()), repeated: false },
            Ok(Answer { result, repeated, .. }) => {
                Repeatable { result: result.map_err(Trouble::Status), repeated }
            }
        }
    }

    pub(super) async fn get_attributes(&self, object: &nfs_fh3) -> Result<fattr3, Trouble> {
        let args = GETATTR3args { object: object.clone() };
        self.simple(NFS_PROGRAM::NFSPROC3_GETATTR, &args, value).await
    }

    pub(super) async fn lookup(&self, directory: &nfs_fh3, name: &str) -> Result<Found, Trouble> {
        let args = LOOKUP3args { what: in_directory(directory, name) };
        let found =
            |cursor: &mut Cursor<'_>| Ok(Found { handle: handle(cursor)?, attributes: cursor.attributes()? });
        self.simple(NFS_PROGRAM::NFSPROC3_LOOKUP, &args, found).await
    }

    pub(super) async fn fsinfo(&self, root: &nfs_fh3) -> Result<FSINFO3resok, Trouble> {
        let args = FSINFO3args { fsroot: root.clone() };
        self.simple(NFS_PROGRAM::NFSPROC3_FSINFO, &args, value).await
    }

    pub(super) async fn fsstat(&self, root: &nfs_fh3) -> Result<FSSTAT3resok, Trouble> {
        let args = FSSTAT3args { fsroot: root.clone() };
        self.simple(NFS_PROGRAM::NFSPROC3_FSSTAT, &args, value).await
    }

    /// Creates a file that nobody else created: a repeated call with the same verifier
    /// succeeds again, another one does not.
    pub(super) async fn create_exclusive(
        &self,
        directory: &nfs_fh3,
        name: &str,
        verifier: u64,
    ) -> Result<Created, Trouble> {
        let how = createhow3::EXCLUSIVE(createverf3(verifier.to_be_bytes()));
        self.create(directory, name, how).await.result
    }

    /// Creates a file if the name is free, on servers that cannot do so exclusively.
    pub(super) async fn create_guarded(&self, directory: &nfs_fh3, name: &str) -> Repeatable<Created> {
        self.create(directory, name, createhow3::GUARDED(private())).await
    }

    async fn create(&self, directory: &nfs_fh3, name: &str, how: createhow3) -> Repeatable<Created> {
        let args = CREATE3args { where_: in_directory(directory, name), how };
        let created = |cursor: &mut Cursor<'_>| Ok(Created { handle: optional_handle(cursor)? });
        self.repeatable(NFS_PROGRAM::NFSPROC3_CREATE, &args, created).await
    }

    /// Gives the file mode 0600, and times again after an exclusive create has used their
    /// fields for its verifier.
    pub(super) async fn make_private(&self, file: &nfs_fh3) -> Result<(), Trouble> {
        let args = SETATTR3args { object: file.clone(), new_attributes: private(), guard: Nfs3Option::None };
        self.simple(NFS_PROGRAM::NFSPROC3_SETATTR, &args, |_| Ok(())).await
    }

    pub(super) async fn remove_name(&self, directory: &nfs_fh3, name: &str) -> Repeatable<()> {
        let args = REMOVE3args { object: in_directory(directory, name) };
        self.repeatable(NFS_PROGRAM::NFSPROC3_REMOVE, &args, |_| Ok(())).await
    }

    pub(super) async fn rename(&self, directory: &nfs_fh3, from: &str, to: &str) -> Repeatable<()> {
        let args = RENAME3args { from: in_directory(directory, from), to: in_directory(directory, to) };
        self.repeatable(NFS_PROGRAM::NFSPROC3_RENAME, &args, |_| Ok(())).await
    }

    pub(super) async fn link(&self, file: &nfs_fh3, directory: &nfs_fh3, name: &str) -> Repeatable<()> {
        let args = LINK3args { file: file.clone(), link: in_directory(directory, name) };
        self.repeatable(NFS_PROGRAM::NFSPROC3_LINK, &args, |_| Ok(())).await
    }

    pub(super) async fn read_directory(
        &self,
        directory: &nfs_fh3,
        cookie: u64,
        verifier: cookieverf3,
    ) -> Result<Page, Trouble> {
        let args = READDIRPLUS3args {
            dir: directory.clone(),
            cookie,
            cookieverf: verifier,
            dircount: DIRECTORY_PAGE_BYTES,
            maxcount: DIRECTORY_PAGE_BYTES,
        };
        self.simple(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &args, page).await
    }

    /// Reads into `target`; gives how many bytes came and whether the file ends there.
    pub(super) async fn read(
        &self,
        file: &nfs_fh3,
        offset: u64,
        target: &Target,
    ) -> Result<(usize, bool), Trouble> {
        let count = u32::try_from(target.len()).expect("transfers are bounded to some MiB");
        let args = READ3args { file: file.clone(), offset, count };
        let request =
            || Request { target: Some(target.clone()), ..self.request(NFS_PROGRAM::NFSPROC3_READ, &args) };
        let read = |reply: &Reply| match reply {
            Reply::Read { len, eof } => Ok(Ok((*len, *eof))),
            reply @ Reply::Results(_) => results(reply, |_| Err(Malformed("a READ without data"))),
        };
        let answer = self.transfer(target.len(), &request, &read).await?;
        answer.result.map_err(Trouble::Status)
    }

    /// Writes a part of a buffer, UNSTABLE.
    pub(super) async fn write(&self, file: &nfs_fh3, offset: u64, data: &Part) -> Result<WriteDone, Trouble> {
        let args = WriteHead { file, offset, len: data.len() };
        let request = || Request {
            data: Some((Arc::clone(&data.buffer), data.range.clone())),
            ..self.request(NFS_PROGRAM::NFSPROC3_WRITE, &args)
        };
        let read = |reply: &Reply| results(reply, |cursor| taken(cursor, data.len()));
        let answer = self.transfer(data.len(), &request, &read).await?;
        let (len, stable, verifier) = answer.result.map_err(Trouble::Status)?;
        Ok(WriteDone { len, stable, verifier, connection: answer.connection })
    }

    /// Commits the whole file over just this connection, without another attempt: that its
    /// answer came over the same connection as the writes' is what makes it count for them.
    pub(super) async fn commit_over(
        &self,
        connection: &Connection,
        file: &nfs_fh3,
    ) -> Result<writeverf3, CommitTrouble> {
        let _outstanding = self.status.begin();
        let args = COMMIT3args { file: file.clone(), offset: 0, count: 0 };
        let mut request = self.request(NFS_PROGRAM::NFSPROC3_COMMIT, &args);
        request.patience *= COMMIT_PATIENCE;
        let outcome = self.patiently(connection.call(request)).await?;
        let understood = outcome.and_then(|reply| Ok(results(&reply, committed)?));
        match understood {
            Err(CallError::Refused(refusal)) => {
                Err(CommitTrouble::Final(ServerError::Refused(refusal).into()))
            }
            Err(CallError::Lost(_) | CallError::Malformed(_)) => Err(CommitTrouble::Again),
            Ok(Err(nfsstat3::NFS3ERR_JUKEBOX)) => Err(CommitTrouble::Later),
            Ok(result) => {
                self.status.served();
                result.map_err(|status| CommitTrouble::Final(Trouble::Status(status)))
            }
        }
    }
}

/// Why a COMMIT did not succeed.
#[derive(Debug)]
pub(super) enum CommitTrouble {
    /// There is no answer, or none that makes sense: what was written over the connection may be gone.
    Again,
    /// The server asks to try again later.
    Later,
    Final(Trouble),
}

impl<T: Into<Trouble>> From<T> for CommitTrouble {
    fn from(trouble: T) -> Self {
        Self::Final(trouble.into())
    }
}

/// A WRITE that succeeded.
#[derive(Debug)]
pub(super) struct WriteDone {
    /// Bytes taken, maybe fewer than were sent.
    pub(super) len: usize,
    /// On stable storage already.
    pub(super) stable: bool,
    /// Of the server's life that has the data in memory.
    pub(super) verifier: writeverf3,
    pub(super) connection: Arc<Connection>,
}

fn private() -> sattr3 {
    sattr3 {
        mode: Nfs3Option::Some(0o600),
        atime: set_atime::SET_TO_SERVER_TIME,
        mtime: set_mtime::SET_TO_SERVER_TIME,
        ..sattr3::default()
    }
}

fn entry(cursor: &mut Cursor<'_>) -> Result<Entry, Malformed> {
    let _file_id = cursor.u64()?;
    let name = cursor.opaque(FILE_NAME_BYTES_MAX)?.to_vec();
    let cookie = cursor.u64()?;
    let attributes = cursor.attributes()?;
    optional_handle(cursor)?;
    Ok(Entry { name, cookie, attributes })
}

fn value<T: Unpack>(cursor: &mut Cursor<'_>) -> Result<T, Malformed> {
    cursor.unpack()
}

fn page(cursor: &mut Cursor<'_>) -> Result<Page, Malformed> {
    cursor.attributes()?;
    let verifier = cursor.unpack()?;
    let mut entries = Vec::new();
    while cursor.bool()? {
        entries.push(entry(cursor)?);
    }
    Ok(Page { entries, verifier, end: cursor.bool()? })
}

/// What of a WRITE of `len` bytes the server has taken, whether it is on stable storage already, and
/// the verifier.
fn taken(cursor: &mut Cursor<'_>, len: usize) -> Result<(usize, bool, writeverf3), Malformed> {
    let _: wcc_data = cursor.unpack()?;
    let count = cursor.u32()? as usize;
    let committed: stable_how = cursor.unpack()?;
    let verifier = cursor.unpack()?;
    if count == 0 || count > len {
        return Err(Malformed("a WRITE of none or of more bytes than were sent"));
    }
    Ok((count, committed != stable_how::UNSTABLE, verifier))
}

fn committed(cursor: &mut Cursor<'_>) -> Result<writeverf3, Malformed> {
    let _: wcc_data = cursor.unpack()?;
    cursor.unpack()
}

/// WRITE's arguments up to the data itself, which is sent from where it is.
struct WriteHead<'a> {
    file: &'a nfs_fh3,
    offset: u64,
    len: usize,
}

impl Pack for WriteHead<'_> {
    fn packed_size(&self) -> usize {
        self.file.packed_size() + 8 + 4 + 4 + 4
    }

    fn pack(&self, out: &mut impl std::io::Write) -> nfs3_types::xdr_codec::Result<usize> {
        let len =
            u32::try_from(self.len).map_err(|_| nfs3_types::xdr_codec::Error::ObjectTooLarge(self.len))?;
        self.file.pack(out)?;
        self.offset.pack(out)?;
        len.pack(out)?;
        stable_how::UNSTABLE.pack(out)?;
        len.pack(out)?;
        Ok(self.packed_size())
    }
}
