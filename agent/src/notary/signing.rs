//! The git key: what it signs, for whom, and how often. It signs a commit for a call that runs and that was logged as a git commit,
//! once, and only if the commit says what the request says: message, author and committer are the caller's, tree and parents are
//! what its repository holds.

use super::keys::PrivateKey;
use super::live::NotaryError;
use crate::frames::log::Refusal;
use coffer_evidence::call::Request;
use coffer_evidence::git::{Commit, GitOrder, ObjectId, Person};
use std::collections::BTreeMap;

/// The key and the calls that it is for.
#[derive(Debug)]
pub struct Commits {
    /// Gone once the session is being sealed.
    key: Option<PrivateKey>,
    /// By the index of their intent.
    expected: BTreeMap<u64, Expected>,
}

/// What the commit of a call must say.
#[derive(Debug)]
struct Expected {
    message: String,
    author: Person,
    /// What was signed for it.
    signed: Option<ObjectId>,
}

impl Commits {
    /// No calls yet.
    pub fn new(key: PrivateKey) -> Self {
        Self { key: Some(key), expected: BTreeMap::new() }
    }

    /// A call was logged. Only one whose request is a git commit is of interest.
    pub fn expect(&mut self, intent: u64, request: Request) {
        if let Request::Git { order: GitOrder::Commit { message, author }, .. } = request {
            let message = Commit::message_of(&message);
            self.expected.insert(intent, Expected { message, author, signed: None });
        }
    }

    /// Signs. The bytes are an identity's: what is wrong with them is an answer. The call is the agent's word: one that does not
    /// run, or is no commit, is an error.
    pub fn sign(&mut self, intent: u64, bytes: &[u8]) -> Result<Result<String, Refusal>, NotaryError> {
        let wrong = |what| NotaryError::new("agent", what);
        let key = self.key.as_ref().ok_or_else(|| wrong("it asks for a signature while the session is sealed"))?;
        let expected = self.expected.get_mut(&intent);
        let expected = expected.ok_or_else(|| wrong("it asks for a signature for a call that is no running commit"))?;
        let Ok(commit) = Commit::parse(bytes) else { return Ok(Err(Refusal::Unacceptable)) };
        let says = commit.message == expected.message
            && commit.author.person == expected.author
            && commit.committer.person == expected.author;
        if !says || expected.signed.is_some() {
            return Ok(Err(Refusal::Unacceptable));
        }
        let signed = key.sign(|key| commit.sign(key));
        expected.signed = Some(signed.id());
        Ok(Ok(signed.signature().to_armor()))
    }

    /// A call is over; answers what was signed for it.
    pub fn ended(&mut self, intent: u64) -> Option<ObjectId> {
        self.expected.remove(&intent).and_then(|expected| expected.signed)
    }

    /// Overwrites the key. Nothing is signed any more.
    pub fn destroy(&mut self) {
        // Dropping it overwrites it.
        drop(self.key.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::git::{SignedCommit, SshSignature, Stamp};
    use coffer_evidence::sign::PublicKey;

    fn author(name: &str) -> Person {
        Person::new(name, "ada@example.org").unwrap()
    }

    fn request(order: GitOrder) -> Request {
        Request::Git { path: "repo".into(), order }
    }

    fn commit(author: &Person, message: &str) -> Commit {
        let stamp = Stamp { person: author.clone(), seconds: 1, zone: 0 };
        let (committer, message) = (stamp.clone(), message.to_owned());
        Commit { tree: ObjectId::Sha1([1; 20]), parents: Vec::new(), author: stamp, committer, message }
    }

    fn commits() -> (Commits, PublicKey) {
        let key = PrivateKey::known(&[7; 32]);
        let public = key.public();
        let mut commits = Commits::new(key);
        commits.expect(3, request(GitOrder::Commit { message: "hello".into(), author: author("Ada") }));
        commits.expect(4, request(GitOrder::Status));
        (commits, public)
    }

    #[test]
    fn a_commit_that_says_what_its_request_says_is_signed_once() {
        let (mut commits, key) = commits();
        let commit = commit(&author("Ada"), "hello\n");
        let armor = commits.sign(3, &commit.to_bytes()).unwrap().unwrap();
        let signed: SignedCommit = commit.clone().with(SshSignature::parse(&armor).unwrap());
        assert!(signed.verifies() && signed.signature().key == key);
        assert_eq!(commits.sign(3, &commit.to_bytes()), Ok(Err(Refusal::Unacceptable)));
        assert_eq!(commits.ended(3), Some(signed.id()));
        assert_eq!(commits.ended(3), None);
        assert!(commits.sign(3, &commit.to_bytes()).is_err());
    }

    #[test]
    fn what_says_something_else_is_refused_and_may_be_put_right() {
        let (mut commits, _) = commits();
        let good = commit(&author("Ada"), "hello\n");
        let other = |commit: Commit| commit.to_bytes();
        let stamp = Stamp { person: author("Eve"), seconds: 1, zone: 0 };
        let key = PrivateKey::known(&[8; 32]);
        for bytes in [
            Vec::new(),
            b"not a commit".to_vec(),
            other(commit(&author("Ada"), "bye\n")),
            other(commit(&author("Eve"), "hello\n")),
            other(Commit { author: stamp.clone(), ..good.clone() }),
            other(Commit { committer: stamp, ..good.clone() }),
            key.sign(|key| good.clone().sign(key)).to_bytes(),
        ] {
            assert_eq!(commits.sign(3, &bytes), Ok(Err(Refusal::Unacceptable)), "{bytes:?}");
        }
        assert!(commits.sign(3, &good.to_bytes()).unwrap().is_ok());
    }

    #[test]
    fn a_call_that_is_no_running_commit_gets_nothing_and_after_the_end_nobody_does() {
        let (mut commits, _) = commits();
        let bytes = commit(&author("Ada"), "hello\n").to_bytes();
        for intent in [0, 4, 5] {
            assert!(commits.sign(intent, &bytes).is_err(), "{intent}");
        }
        commits.destroy();
        assert!(commits.sign(3, &bytes).is_err());
        assert_eq!(commits.ended(3), None);
    }
}
