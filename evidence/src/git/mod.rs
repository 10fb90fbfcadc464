//! Commits that a session makes: the object as it is signed, its signature in the form of OpenSSH (SSHSIG), and the id that git
//! gives it. Not git: nothing here reads a repository.
//!
//! The git key of an instance is in its open map, so in the opening quote. The notary signs with it only what [`Commit::parse`]
//! takes, in the namespace `git`; [`SignedCommit::parse`] reads it back, from whoever hands it over.

mod commit;
mod object_id;
mod order;
mod sshsig;

pub use crate::numbers::{BranchAction, GitAction};
pub use commit::{COMMIT_MAX, Commit, CommitError, MESSAGE_MAX, PARENTS_MAX, Person, PersonError, SignedCommit, Stamp};
pub use object_id::{ObjectId, ObjectIdError};
pub(crate) use order::read_order;
pub use order::{Branch, GitOrder, Side};
pub use sshsig::{ARMOR_MAX, NAMESPACE, SshSignature, SshSignatureError};
