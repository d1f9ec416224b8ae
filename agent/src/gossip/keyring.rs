//! The keys of a pool: AES-GCM with 16, 24 or 32 bytes.
//!
//! What is said is sealed with the first key; what is heard may be sealed with any of them, so that
//! keys can be exchanged while all keep talking: install the new one everywhere, use it, remove the
//! old one. There is one keyring; who needs it for a packet takes the keys as they are.

use std::io;
use std::path::Path;
use std::sync::Arc;

use aes_gcm::aead::{Aead, KeyInit, Nonce, Payload};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::wire::SEALED;
use crate::disk;

/// Bytes of chance before each packet.
const NONCE: usize = 12;
/// Keys at once; nobody rotates that many.
const KEYS_MAX: usize = 16;

type Aes192Gcm = AesGcm<Aes192, aes_gcm::aead::consts::U12>;

/// An order to a member's keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Which keys are there?
    List,
    /// Take this one as well.
    Install(Vec<u8>),
    /// Seal with this one from now on.
    Use(Vec<u8>),
    /// Forget this one.
    Remove(Vec<u8>),
}

/// Result of an order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Empty if it went well.
    pub error: String,
    /// The keys afterwards, the one in use first.
    pub keys: Vec<Vec<u8>>,
}

/// A key that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongKey {
    /// Not base64.
    #[error("illegal base64 data")]
    Encoding,
    /// Of another size.
    #[error("key size must be 16, 24 or 32 bytes")]
    Size,
}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<Aes192Gcm>),
    Aes256(Box<Aes256Gcm>),
}

struct Key {
    bytes: Vec<u8>,
    cipher: Cipher,
}

impl Key {
    fn new(bytes: &[u8]) -> Result<Key, WrongKey> {
        let wrong = |_| WrongKey::Size;
        let cipher = match bytes.len() {
            16 => Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(bytes).map_err(wrong)?)),
            24 => Cipher::Aes192(Box::new(Aes192Gcm::new_from_slice(bytes).map_err(wrong)?)),
            32 => Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(bytes).map_err(wrong)?)),
            _ => return Err(WrongKey::Size),
        };
        Ok(Key { bytes: bytes.to_owned(), cipher })
    }

    fn seal(&self, nonce: &[u8; NONCE], plain: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: plain, aad: &[SEALED] };
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt(&Nonce::<Aes128Gcm>::from(*nonce), payload),
            Cipher::Aes192(cipher) => cipher.encrypt(&Nonce::<Aes192Gcm>::from(*nonce), payload),
            Cipher::Aes256(cipher) => cipher.encrypt(&Nonce::<Aes256Gcm>::from(*nonce), payload),
        }
        .ok()
    }

    fn open(&self, nonce: &[u8; NONCE], sealed: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: sealed, aad: &[SEALED] };
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt(&Nonce::<Aes128Gcm>::from(*nonce), payload),
            Cipher::Aes192(cipher) => cipher.decrypt(&Nonce::<Aes192Gcm>::from(*nonce), payload),
            Cipher::Aes256(cipher) => cipher.decrypt(&Nonce::<Aes256Gcm>::from(*nonce), payload),
        }
        .ok()
    }
}

/// The keys of one member; clones are the same keyring.
#[derive(Clone)]
pub struct Keyring {
    /// The first is in use. None: nothing is sealed.
    keys: Arc<ArcSwap<Vec<Arc<Key>>>>,
    verify_incoming: bool,
    verify_outgoing: bool,
}

impl std::fmt::Debug for Keyring {
    /// Without the keys.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Keyring").field("keys", &self.keys.load().len()).finish_non_exhaustive()
    }
}

impl Keyring {
    /// A keyring with these keys, the one in use first. With none, all is said openly.
    pub fn new(keys: &[Vec<u8>]) -> Result<Keyring, WrongKey> {
        let keys: Vec<Arc<Key>> =
            keys.iter().map(|key| Key::new(key).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Keyring {
            keys: Arc::new(ArcSwap::from_pointee(keys)),
            verify_incoming: true,
            verify_outgoing: true,
        })
    }

    /// Takes openly said things (`incoming` false), or says them (`outgoing` false), though there
    /// are keys: for pools that begin to encrypt.
    #[must_use]
    pub fn verifying(mut self, incoming: bool, outgoing: bool) -> Keyring {
        (self.verify_incoming, self.verify_outgoing) = (incoming, outgoing);
        self
    }

    /// Reads a key as it is written.
    pub fn read(text: &str) -> Result<Vec<u8>, WrongKey> {
        let key = Keyring::decode(text).ok_or(WrongKey::Encoding)?;
        if matches!(key.len(), 16 | 24 | 32) { Ok(key) } else { Err(WrongKey::Size) }
    }

    /// The bytes of a written key, whatever their number.
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(text).ok()
    }

    /// Writes a key.
    pub fn write(key: &[u8]) -> String {
        BASE64_STANDARD.encode(key)
    }

    /// Are there keys?
    pub fn is_on(&self) -> bool {
        !self.keys.load().is_empty()
    }

    /// The keys, the one in use first.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.keys.load().iter().map(|key| key.bytes.clone()).collect()
    }

    /// Reads kept keys. Nothing if there is no such file.
    pub fn kept(file: &Path) -> io::Result<Option<Vec<Vec<u8>>>> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let keys: Vec<String> = serde_json::from_slice(&text)?;
        let read = |key: &String| Keyring::read(key).map_err(io::Error::other);
        keys.iter().map(read).collect::<io::Result<_>>().map(Some)
    }

    /// Writes the keys down, beside the old file and then in its place.
    pub fn keep(&self, file: &Path) -> io::Result<()> {
        let keys: Vec<String> = self.keys().iter().map(|key| Keyring::write(key)).collect();
        if let Some(folder) = file.parent() {
            disk::folder(folder)?;
        }
        disk::replace(file, &serde_json::to_vec(&keys)?)
    }

    /// Does what is ordered and keeps the keys as they are then. What cannot be kept is taken back: else this member
    /// would be lost to its pool after a restart.
    pub fn obey_and_keep(&self, order: &Order, file: &Path) -> Report {
        let before = self.keys.load_full();
        let report = self.obey(order);
        let now = self.keys.load_full();
        if Arc::ptr_eq(&before, &now) {
            return report;
        }
        match self.keep(file) {
            Ok(()) => report,
            Err(error) => {
                self.keys.store(before);
                let file = file.display();
                let error =
                    format!("not done: the keyring file `{file}` cannot be written: {error}");
                Report { error, keys: self.keys() }
            }
        }
    }

    /// Does what is ordered, and says what came of it.
    pub fn obey(&self, order: &Order) -> Report {
        let error = match self.try_obey(order) {
            Ok(()) => String::new(),
            Err(reason) => reason.to_owned(),
        };
        Report { error, keys: self.keys() }
    }

    fn try_obey(&self, order: &Order) -> Result<(), &'static str> {
        let mut keys = Vec::clone(&self.keys.load());
        if keys.is_empty() {
            return Err("Keyring is empty (encryption not enabled)");
        }
        let place = |key: &[u8]| keys.iter().position(|known| known.bytes == key);
        match order {
            Order::List => return Ok(()),
            Order::Install(key) => {
                if place(key).is_some() {
                    return Ok(());
                }
                if keys.len() == KEYS_MAX {
                    return Err("Too many keys: remove one first");
                }
                let key = Key::new(key).map_err(|_| "key size must be 16, 24 or 32 bytes")?;
                keys.push(Arc::new(key));
            }
            Order::Use(key) => {
                let at = place(key).ok_or("Requested key is not in the keyring")?;
                keys[..=at].rotate_right(1);
            }
            Order::Remove(key) => match place(key) {
                Some(0) => return Err("Removing the primary key is not allowed"),
                Some(at) => {
                    keys.remove(at);
                }
                None => {}
            },
        }
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    /// Seals a packet before it is sent.
    pub fn seal(&self, plain: Vec<u8>) -> Vec<u8> {
        if self.verify_outgoing { self.seal_always(plain) } else { plain }
    }

    /// Seals a packet about keys: never in plain text where there is a key.
    pub(super) fn seal_always(&self, plain: Vec<u8>) -> Vec<u8> {
        let keys = self.keys.load();
        let Some(key) = keys.first() else { return plain };
        let nonce: [u8; NONCE] = rand::random();
        match key.seal(&nonce, &plain) {
            Some(sealed) => [&[SEALED], &nonce[..], &sealed].concat(),
            // Only what is longer than 64 GiB cannot be sealed; saying nothing is then right.
            None => Vec::new(),
        }
    }

    /// May what was heard so, and could be opened, tell of keys? Where there are keys, only who has one may know or
    /// change them, though everything else is taken openly for a while.
    pub(super) fn may_tell_of_keys(&self, heard: &[u8]) -> bool {
        heard.first() == Some(&SEALED) || !self.is_on()
    }

    /// Opens a received packet; nothing if it is not from this pool.
    pub(super) fn open(&self, heard: Vec<u8>) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let Some(rest) = heard.strip_prefix(&[SEALED]) else {
            let open = keys.is_empty() || !self.verify_incoming;
            return open.then_some(heard);
        };
        let (nonce, sealed) = rest.split_at_checked(NONCE)?;
        let nonce: [u8; NONCE] = nonce.try_into().ok()?;
        keys.iter().find_map(|key| key.open(&nonce, sealed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_each_size_seal_and_open() {
        for size in [16, 24, 32] {
            let ring = Keyring::new(&[vec![7; size]]).unwrap();
            let sealed = ring.seal(b"hello".to_vec());
            assert!(!sealed.windows(5).any(|part| part == b"hello"));
            assert_eq!(ring.open(sealed.clone()).as_deref(), Some(&b"hello"[..]));
            let mut forged = sealed.clone();
            *forged.last_mut().unwrap() ^= 1;
            assert_eq!(ring.open(forged), None);
            let other = Keyring::new(&[vec![8; size]]).unwrap();
            assert_eq!(other.open(sealed), None);
        }
        assert_eq!(Keyring::new(&[vec![7; 15]]).unwrap_err(), WrongKey::Size);
    }

    #[test]
    fn open_speech_is_heard_only_where_it_may_be() {
        let said = b"open".to_vec();
        let none = Keyring::new(&[]).unwrap();
        assert_eq!(none.seal(said.clone()), said);
        assert!(none.open(said.clone()).is_some());
        let ring = Keyring::new(&[vec![7; 16]]).unwrap();
        assert_eq!(ring.open(said.clone()), None);
        let lenient = ring.clone().verifying(false, false);
        assert!(lenient.open(said.clone()).is_some());
        assert_eq!(lenient.seal(said.clone()), said);
        assert!(lenient.open(ring.seal(said.clone())).is_some());
    }

    #[test]
    fn what_cannot_be_kept_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (vec![1; 16], vec![2; 32]);
        let ring = Keyring::new(std::slice::from_ref(&old)).unwrap();
        let file = folder.path().join("serf/local.keyring");
        // Nothing can be written below a file.
        std::fs::write(folder.path().join("serf"), "").unwrap();
        let refused = ring.obey_and_keep(&Order::Install(new.clone()), &file);
        assert!(refused.error.contains("cannot be written"), "{refused:?}");
        assert_eq!((&refused.keys, ring.keys()), (&vec![old.clone()], vec![old.clone()]));
        assert_eq!(ring.obey_and_keep(&Order::List, &file).error, "");

        std::fs::remove_file(folder.path().join("serf")).unwrap();
        let both = vec![old, new.clone()];
        let done = ring.obey_and_keep(&Order::Install(new), &file);
        assert_eq!((done.error.as_str(), &done.keys), ("", &both));
        assert_eq!(Keyring::kept(&file).unwrap(), Some(both));
    }

    #[test]
    fn keys_are_rotated_without_silence() {
        let (old, new) = (vec![1; 16], vec![2; 32]);
        let ring = || Keyring::new(std::slice::from_ref(&old)).unwrap();
        let (a, b) = (ring(), ring());
        let talk = || {
            assert!(b.open(a.seal(b"x".to_vec())).is_some());
            assert!(a.open(b.seal(b"x".to_vec())).is_some());
        };
        for order in
            [Order::Install(new.clone()), Order::Use(new.clone()), Order::Remove(old.clone())]
        {
            for ring in [&a, &b] {
                assert_eq!(ring.obey(&order).error, "");
                talk();
            }
        }
        assert_eq!(a.keys(), std::slice::from_ref(&new));
        assert_eq!(a.obey(&Order::Use(old)).error, "Requested key is not in the keyring");
        assert_eq!(a.obey(&Order::Remove(new)).error, "Removing the primary key is not allowed");
    }
}
