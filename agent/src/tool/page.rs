//! The token of a page: how far a listing has come, and of which listing it is. It holds no secret and nobody trusts it:
//! it says where to go on, among names that are read anew.

use super::{LISTING_DEPTH_MAX, PATH_MAX};
use sha2::{Digest as _, Sha256};

/// Bytes that tell listings apart.
const MARK: usize = 8;
/// Bytes of the longest path in a listing: its depth times a name and a slash.
const PLACE_MAX: usize = LISTING_DEPTH_MAX as usize * 256;
/// Characters of the longest token.
pub const TOKEN_MAX: usize = 2 * (MARK + PLACE_MAX);

const _: () = assert!(PLACE_MAX > PATH_MAX, "a page may end where no path reaches");

/// The token of a listing of `path` to `depth` that told everything up to `after`.
pub fn token(path: &[u8], depth: u64, after: &[u8]) -> String {
    hex::encode([&mark(path, depth)[..], after].concat())
}

/// Where to go on: nothing for the empty token. None when it is no token of this listing.
pub fn place(token: &str, path: &[u8], depth: u64) -> Option<Option<Vec<u8>>> {
    if token.is_empty() {
        return Some(None);
    }
    // Lower case alone: one place has one token.
    if token.len() > TOKEN_MAX || token.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let bytes = hex::decode(token).ok()?;
    let (found, after) = bytes.split_first_chunk::<MARK>()?;
    let whole = !after.is_empty() && !after.contains(&0);
    (whole && *found == mark(path, depth)).then(|| Some(after.to_vec()))
}

fn mark(path: &[u8], depth: u64) -> [u8; MARK] {
    let digest: [u8; 32] = Sha256::new().chain_update(depth.to_be_bytes()).chain_update(path).finalize().into();
    let mut mark = [0; MARK];
    mark.copy_from_slice(&digest[..MARK]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_good_for_its_own_listing_alone() {
        let made = token(b"a/b", 3, b"c/\xff");
        assert_eq!(place(&made, b"a/b", 3), Some(Some(b"c/\xff".to_vec())));
        assert_eq!(place("", b"a/b", 3), Some(None));
        for (what, token, path, depth) in [
            ("another path", made.clone(), &b"a"[..], 3),
            ("another depth", made.clone(), b"a/b", 2),
            ("upper case", made.to_uppercase(), b"a/b", 3),
            ("a digit less", made[1..].to_owned(), b"a/b", 3),
            ("no place", token(b"a/b", 3, b""), b"a/b", 3),
            ("a place that is none", token(b"a/b", 3, b"c\0d"), b"a/b", 3),
            ("too long", token(b"a/b", 3, &vec![b'a'; PLACE_MAX + 1]), b"a/b", 3),
            ("no hex", "zz".to_owned(), b"a/b", 3),
            ("short", "00".to_owned(), b"a/b", 3),
        ] {
            assert_eq!(place(&token, path, depth), None, "{what}");
        }
        assert!(place(&token(b"", 64, &vec![b'a'; PLACE_MAX]), b"", 64).is_some());
    }

    proptest! {
        #[test]
        fn whatever_passes_for_a_token_is_the_one_that_we_make(text in "[0-9a-fA-F]{0,40}|\\PC{0,20}", depth in 0_u64..70) {
            if let Some(Some(after)) = place(&text, b"a", depth) {
                prop_assert_eq!(token(b"a", depth, &after), text);
            }
        }

        #[test]
        fn a_place_comes_back(after in "[^\\x00]{1,40}", path in "[a-c/]{0,9}", depth in 1_u64..65) {
            let made = token(path.as_bytes(), depth, after.as_bytes());
            prop_assert_eq!(place(&made, path.as_bytes(), depth), Some(Some(after.into_bytes())));
        }
    }
}
