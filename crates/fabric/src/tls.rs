//! Who this host is to the others, and whom it takes for one of them: its certificate and key, and the cluster's anchors.
//!
//! They are three files of one directory, and are read anew when one of them has changed, so that they can be replaced
//! under an agent that runs. What is not right about them refuses connections until it is: the old ones are not used on.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, PeerIncompatible, RootCertStore, ServerConfig,
};

use crate::sync::lock;

/// The application protocol in TLS. It has no version: that of the hello, inside, is told to both sides.
pub(crate) const ALPN: &[u8] = b"megalith";

/// The cluster's anchors, one certificate or several.
pub const ANCHORS_FILE: &str = "ca.pem";
/// This host's certificate, and those between it and an anchor.
pub const CERTIFICATE_FILE: &str = "host.pem";
/// This host's private key.
pub const KEY_FILE: &str = "host.key";

const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files that are being replaced do not fit together for a moment: so often they are looked at again.
const LOOKS_MAX: usize = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Why a host's keys cannot be used.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields say it")]
pub enum KeysError {
    /// A file cannot be read.
    File { path: PathBuf, source: io::Error },
    /// Others may read the private key.
    Open { path: PathBuf },
    /// The private key is somebody else's file.
    Owner { path: PathBuf, uid: u32 },
    /// A file has not in it what it should.
    Content { path: PathBuf, reason: String },
    /// The cluster's own anchors, or the clock, speak against the certificate; or it is another host's.
    Certificate { path: PathBuf, reason: String },
    /// No certificate can be for a host of this name.
    Name { name: String },
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeysError::File { path, source } => {
                write!(f, "{}: {source}; make keys with: megalith init", path.display())
            }
            KeysError::Open { path } => {
                let path = path.display();
                write!(f, "{path}: others may read it; if nobody has, make it private: chmod 600 {path}")
            }
            KeysError::Owner { path, uid } => {
                write!(f, "{}: belongs to another user (uid {uid})", path.display())
            }
            KeysError::Content { path, reason } => write!(f, "{}: {reason}", path.display()),
            KeysError::Certificate { path, reason } => {
                write!(f, "{}: {reason}; see: megalith doctor", path.display())
            }
            KeysError::Name { name } => write!(
                f,
                "a host that has keys cannot be named {name}: letters, digits, '-', '_' and '.' as in DNS, not only digits"
            ),
        }
    }
}

impl std::error::Error for KeysError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The message has the source in it already.
            KeysError::File { source, .. } => source.source(),
            _ => None,
        }
    }
}

/// Why two agents' keys do not fit, as the one sees it that dials.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// We have keys, and it speaks plaintext.
    TheyHaveNone,
    /// We have none, and it speaks TLS.
    WeHaveNone,
    /// Its certificate is not good; why.
    Theirs(String),
    /// It does not take ours; why.
    Ours(String),
    /// Our files are not right; how.
    Files(String),
    /// It breaks the rules of TLS; which.
    Protocol(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::TheyHaveNone => f.write_str(
                "its agent speaks plaintext, and this host has keys; give it keys too (megalith token), or start all agents with --plaintext",
            ),
            Trouble::WeHaveNone => f.write_str(
                "its agent speaks TLS, and this host's has no keys; get some (megalith token there, megalith init --join here)",
            ),
            Trouble::Theirs(why) => write!(f, "its certificate is not good: {why}"),
            Trouble::Ours(why) => write!(f, "its agent does not take this host's certificate: {why}"),
            Trouble::Files(how) => write!(f, "this host's keys cannot be used: {how}"),
            Trouble::Protocol(what) => write!(f, "its agent does not speak TLS as it should: {what}"),
        }
    }
}

impl Trouble {
    /// What the one that dials makes of an error.
    pub(crate) fn of(error: &Error) -> Trouble {
        match error {
            Error::AlertReceived(AlertDescription::ProtocolVersion) => {
                Trouble::Protocol("it speaks no TLS 1.3".into())
            }
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Trouble::Protocol("it is no Megalith agent".into())
            }
            Error::AlertReceived(alert) => Trouble::Ours(refusal(*alert)),
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Trouble::Theirs(reason(error)),
            _ => Trouble::Protocol(reason(error)),
        }
    }
}

/// What is wrong with a peer, in a few words that are ours.
pub(crate) fn reason(error: &Error) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let words = match error {
        Error::NoCertificatesPresented => "it shows no certificate",
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => "it has expired",
        Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "it is not valid yet, by the clock here"
        }
        Error::InvalidCertificate(UnknownIssuer | BadSignature) => "it is of another cluster",
        Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "it is for a host of another name"
        }
        Error::InvalidMessage(_) => "these bytes are no TLS",
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => "it speaks no TLS 1.3",
        Error::NoApplicationProtocol => "it is no Megalith agent",
        Error::AlertReceived(alert) => {
            return format!("it does not take this host's certificate: {}", refusal(*alert));
        }
        other => return other.to_string(),
    };
    words.to_owned()
}

/// What is wrong with our certificate, as the peer's alert says.
fn refusal(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::CertificateExpired => "it has expired or, by the clock there, is not valid yet",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => "it is of another cluster",
        AlertDescription::CertificateRequired => "it got none",
        other => return format!("it says {other:?}"),
    };
    words.to_owned()
}

/// The keys of one host.
pub struct Keys {
    directory: PathBuf,
    name: ServerName<'static>,
    identity: Mutex<Option<Arc<Identity>>>,
}

/// What the files say.
pub(crate) struct Identity {
    stamps: [Stamp; 3],
    pub(crate) dialing: Arc<ClientConfig>,
    pub(crate) listening: Arc<ServerConfig>,
}

/// Tells whether a file has been written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Keys {
    /// The keys in `directory`, of the host `name`.
    ///
    /// # Errors
    /// If they cannot be used as they are.
    pub fn open(directory: &Path, name: &str) -> Result<Keys, KeysError> {
        let name = dns_name(name).ok_or_else(|| KeysError::Name { name: name.to_owned() })?;
        let keys = Keys { directory: directory.to_owned(), name, identity: Mutex::default() };
        keys.identity()?;
        Ok(keys)
    }

    /// What the files say now.
    pub(crate) fn identity(&self) -> Result<Arc<Identity>, KeysError> {
        let mut looks = 0;
        loop {
            looks += 1;
            match self.look() {
                Err(_) if looks < LOOKS_MAX => thread::sleep(LOOK_PAUSE),
                found => return found,
            }
        }
    }

    fn look(&self) -> Result<Arc<Identity>, KeysError> {
        let stamps = [
            stamp(&self.directory.join(ANCHORS_FILE))?,
            stamp(&self.directory.join(CERTIFICATE_FILE))?,
            stamp(&self.directory.join(KEY_FILE))?,
        ];
        if let Some(known) = lock(&self.identity).as_ref().filter(|known| known.stamps == stamps) {
            return Ok(known.clone());
        }
        // The stamps are older than what is read: what changes in between is read once more.
        let read = Arc::new(self.read(stamps)?);
        *lock(&self.identity) = Some(read.clone());
        Ok(read)
    }

    fn read(&self, stamps: [Stamp; 3]) -> Result<Identity, KeysError> {
        let path = |name| self.directory.join(name);
        let (anchors_path, chain_path, key_path) =
            (path(ANCHORS_FILE), path(CERTIFICATE_FILE), path(KEY_FILE));
        let content = |path: &Path, reason: String| KeysError::Content { path: path.to_owned(), reason };
        let mut anchors = RootCertStore::empty();
        for anchor in certificates(&anchors_path)? {
            anchors.add(anchor).map_err(|error| content(&anchors_path, error.to_string()))?;
        }
        let (anchors, provider) = (Arc::new(anchors), Arc::new(provider()));
        let verifier = WebPkiServerVerifier::builder_with_provider(anchors.clone(), provider.clone())
            .build()
            .map_err(|error| content(&anchors_path, error.to_string()))?;
        let chain = certificates(&chain_path)?;
        let (own, others) = chain
            .split_first()
            .ok_or_else(|| content(&chain_path, "there is no certificate in it".into()))?;
        verifier
            .verify_server_cert(own, others, &self.name, &[], UnixTime::now())
            .map_err(|error| KeysError::Certificate { path: chain_path.clone(), reason: reason(&error) })?;
        let key = private_key(&key_path)?;
        let judge = WebPkiClientVerifier::builder_with_provider(anchors, provider.clone())
            // Which anchors we have is nothing that strangers must know.
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| content(&anchors_path, error.to_string()))?;
        let unfit = |error: Error| content(&key_path, format!("it does not fit {CERTIFICATE_FILE}: {error}"));
        let mut dialing = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unfit)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unfit)?;
        dialing.alpn_protocols = vec![ALPN.to_vec()];
        dialing.resumption = Resumption::disabled();
        dialing.enable_sni = false;
        let mut listening = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unfit)?
            .with_client_cert_verifier(judge)
            .with_single_cert(chain, key)
            .map_err(unfit)?;
        listening.alpn_protocols = vec![ALPN.to_vec()];
        listening.send_tls13_tickets = 0;
        listening.session_storage = Arc::new(NoServerSessionStorage {});
        listening.max_early_data_size = 0;
        Ok(Identity { stamps, dialing: Arc::new(dialing), listening: Arc::new(listening) })
    }
}

/// Every CPU that runs Megalith does AES in hardware, and with the shorter key it is the fastest.
fn provider() -> CryptoProvider {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    CryptoProvider { cipher_suites, ..ring::default_provider() }
}

/// A host's name as certificates have it; `None` if none can.
pub(crate) fn dns_name(name: &str) -> Option<ServerName<'static>> {
    DnsName::try_from(name.to_owned()).ok().map(ServerName::DnsName)
}

/// Whether `certificate` is for the host `name`.
pub(crate) fn is_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Some(name) = dns_name(name) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

fn stamp(path: &Path) -> Result<Stamp, KeysError> {
    let found = path.metadata().map_err(|source| KeysError::File { path: path.to_owned(), source })?;
    Ok(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.size(),
        written: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

fn read(file: File, path: &Path) -> Result<Vec<u8>, KeysError> {
    let mut bytes = Vec::new();
    match file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
        Err(source) => Err(KeysError::File { path: path.to_owned(), source }),
        Ok(count) if count as u64 > FILE_BYTES_MAX => {
            Err(KeysError::Content { path: path.to_owned(), reason: "it is larger than 1 MiB".into() })
        }
        Ok(_) => Ok(bytes),
    }
}

fn open(path: &Path) -> Result<File, KeysError> {
    File::open(path).map_err(|source| KeysError::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeysError> {
    let bytes = read(open(path)?, path)?;
    CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| KeysError::Content { path: path.to_owned(), reason: format!("not PEM: {error}") })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, KeysError> {
    let file = open(path)?;
    let found = file.metadata().map_err(|source| KeysError::File { path: path.to_owned(), source })?;
    if found.mode() & 0o077 != 0 {
        return Err(KeysError::Open { path: path.to_owned() });
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&found.uid()) {
        return Err(KeysError::Owner { path: path.to_owned(), uid: found.uid() });
    }
    let bytes = read(file, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| KeysError::Content {
        path: path.to_owned(),
        reason: "there is no private key in it".into(),
    })
}
