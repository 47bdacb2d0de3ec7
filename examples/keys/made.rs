//! The keys, certificates and configuration files themselves.

use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyUsagePurpose};
use std::error::Error;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use time::{Duration, OffsetDateTime};

/// Who connects, by the names of their users in `nats/secure.conf`.
pub const ROLES: [&str; 4] = ["admin", "chunker", "summer", "reader"];

/// Where `nats/secure.conf` listens.
const SERVER: &str = "nats://127.0.0.1:4222";

/// Makes all of it in a folder. `names`: by which the server is reached.
pub fn make(folder: &Path, names: Vec<String>) -> Result<(), Box<dyn Error>> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // A server looks for certificates from the folder in which it is started, and so does a client.
    let folder = fs::canonicalize(folder)?;
    let path = |name: &str| folder.join(name).to_str().map(|path| format!("{path:?}")).ok_or("the folder is not UTF-8");

    let mut users = "# The users of nats/secure.conf by their public keys, and where its certificate is.\n".to_owned();
    for role in ROLES {
        let user = KeyPair::new_user();
        let seed = format!("{role}.nk");
        write(&folder, &seed, &format!("{}\n", user.seed()?))?;
        users += &format!("{}: {}\n", role.to_uppercase(), user.public_key());
        let to_connect = format!(
            "# How the {role} connects to nats/secure.conf.\n\n[nats]\nservers = [\"{SERVER}\"]\ntls_ca = {}\nnkey = {}\n\
             # The only subjects for answers that this user may subscribe to.\ninbox_prefix = \"_INBOX_{role}\"\n",
            path("ca.pem")?,
            path(&seed)?
        );
        write(&folder, &format!("{role}.toml"), &to_connect)?;
    }
    users += &format!("SERVER_CERTIFICATE: {}\nSERVER_KEY: {}\n", path("server.pem")?, path("server-key.pem")?);
    write(&folder, "users.conf", &users)?;

    // The authority's key is kept nowhere: it has vouched for one server, and will for no other.
    let mut authority = for_a_year(Vec::new(), "stream-sum test authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate()?)?;
    let key = rcgen::KeyPair::generate()?;
    let server = for_a_year(names, "stream-sum test server")?.signed_by(&key, &authority)?;
    write(&folder, "ca.pem", &authority.pem())?;
    write(&folder, "server.pem", &server.pem())?;
    write(&folder, "server-key.pem", &key.serialize_pem())
}

fn for_a_year(names: Vec<String>, common_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::DAY, now + Duration::days(365));
    Ok(params)
}

/// Writes a file that its owner alone may read.
fn write(folder: &Path, name: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let path = folder.join(name);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!("{} is there already: name another folder, or remove it", path.display()),
        _ => format!("{} can't be written: {error}", path.display()),
    })?;
    Ok(file.write_all(text.as_bytes())?)
}
