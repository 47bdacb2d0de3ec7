//! Credentials and certificates.

use super::check;
use crate::support::{Program, Server};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs;

#[test]
fn credentials() {
    let server = Server::with_config("authorization { user: me, password: \"0123\" }\n");
    for (user, password) in [("me", "wrong-s3cret"), ("", "")] {
        let ended = Program::at(&server, "topology apply")
            .env("STREAM_SUM_NATS__USER", user)
            .env("STREAM_SUM_NATS__PASSWORD", password)
            .run();
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
        check(ended, 2, &["refuses these credentials", "nats.password"]);
    }
    // A password that looks like a number stays as it is.
    Program::at(&server, "topology apply --partitions 1")
        .env("STREAM_SUM_NATS__USER", "me")
        .env("STREAM_SUM_NATS__PASSWORD", "0123")
        .run()
        .expect(0);
    check(Program::at(&server, "topology show --creds /nowhere.creds").run(), 2, &["nats.creds names /nowhere.creds"]);
    check(Program::at(&server, "topology show --nkey /nowhere.nk").run(), 2, &["nats.nkey names /nowhere.nk"]);
}

#[test]
fn a_token_is_taken() {
    let server = Server::with_config("authorization { token: t0ken }\n");
    Program::at(&server, "topology apply --partitions 1").env("STREAM_SUM_NATS__TOKEN", "t0ken").run().expect(0);
    check(Program::at(&server, "topology show").env("STREAM_SUM_NATS__TOKEN", "t1ken").run(), 2, &["refuses"]);
}

#[test]
fn an_nkey_is_taken_and_a_seed_in_place_of_its_file_never_shown() {
    let user = nkeys::KeyPair::new_user();
    let server = Server::with_config(&format!("authorization {{ users: [{{ nkey: {} }}] }}\n", user.public_key()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.nk");
    let seed = user.seed().unwrap();
    fs::write(&file, format!("{seed}\n")).unwrap();
    Program::at(&server, "topology apply --partitions 1 --nkey").arg(&file).run().expect(0);
    fs::write(&file, nkeys::KeyPair::new_user().seed().unwrap()).unwrap();
    check(Program::at(&server, "topology show --nkey").arg(&file).run(), 2, &["refuses these credentials"]);
    let mistaken = Program::at(&server, "topology show").env("STREAM_SUM_NATS__NKEY", &seed).run();
    assert!(!mistaken.stderr.contains(&seed), "{}", mistaken.stderr);
    check(mistaken, 2, &["nats.nkey names [redacted]"]);
}

/// A JWT as NATS has them: claims signed by an nkey.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, nats: &serde_json::Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let claims = serde_json::json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": "test",
        "nats": nats,
    });
    let header = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let signature = encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[test]
fn a_credentials_file_is_taken() {
    let operator = nkeys::KeyPair::new_operator();
    let [system, account] = [(); 2].map(|()| nkeys::KeyPair::new_account());
    let user = nkeys::KeyPair::new_user();
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1, "wildcards": true,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let account_claims = serde_json::json!({ "type": "account", "version": 2, "limits": limits });
    let system_limits = serde_json::json!({ "subs": -1, "data": -1, "payload": -1, "conn": -1 });
    let system_claims = serde_json::json!({ "type": "account", "version": 2, "limits": system_limits });
    let user_claims = serde_json::json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {},
    });
    // An operator allows no mapping beside its accounts.
    let server = Server::with(
        None,
        &format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
            jwt(&operator, &operator, &serde_json::json!({ "type": "operator", "version": 2 })),
            system.public_key(),
            system.public_key(),
            jwt(&operator, &system, &system_claims),
            account.public_key(),
            jwt(&operator, &account, &account_claims),
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.creds");
    let user_jwt = jwt(&account, &user, &user_claims);
    let creds = |seed: &str| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    };
    fs::write(&file, creds(&user.seed().unwrap())).unwrap();
    Program::at(&server, "topology apply --partitions 1 --creds").arg(&file).run().expect(0);
    fs::write(&file, creds(&nkeys::KeyPair::new_user().seed().unwrap())).unwrap();
    check(Program::at(&server, "topology show --creds").arg(&file).run(), 2, &["refuses these credentials"]);
    fs::write(&file, "no credentials").unwrap();
    check(Program::at(&server, "topology show --creds").arg(&file).run(), 2, &["nats.creds names", "cannot be used"]);
    check(Program::at(&server, "topology show").run(), 2, &["refuses these credentials"]);
}

#[test]
fn a_server_that_speaks_tls_is_trusted_by_its_authority_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (file("cert.pem", certified.cert.pem()), file("key.pem", certified.signing_key.serialize_pem()));
    let stranger = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = file("other.pem", stranger.cert.pem());
    for first in ["false", "true"] {
        let server = Server::with_config(&format!(
            "tls {{ cert_file: {cert:?}, key_file: {key:?}, handshake_first: {first} }}\n"
        ));
        let at = |arguments: &str, ca: &str| {
            Program::at(&server, arguments)
                .env("STREAM_SUM_NATS__TLS_CA", ca)
                .env("STREAM_SUM_NATS__TLS_FIRST", first)
                .env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "1s")
        };
        at("topology apply --partitions 1", &cert).run().expect(0);
        let refused = ["no secure connection to", "invalid peer certificate", "check nats.tls_ca"];
        check(at("topology show", &other).run(), 2, &refused);
    }
    let missing = Program::new("topology show").env("STREAM_SUM_NATS__TLS_CA", "/nowhere.pem").run();
    check(missing, 2, &["nats.tls_ca names /nowhere.pem"]);
}

#[test]
fn a_server_that_asks_for_certificates_takes_those_of_its_authority_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pair = |name: &str| {
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let cert = file(&format!("{name}-cert.pem"), certified.cert.pem());
        (cert, file(&format!("{name}-key.pem"), certified.signing_key.serialize_pem()))
    };
    let (server_pair, client_pair, stranger_pair) = (pair("server"), pair("client"), pair("stranger"));
    let server = Server::with_config(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
        server_pair.0, server_pair.1, client_pair.0
    ));
    let at = |arguments: &str, cert: &str, key: &str| {
        Program::at(&server, arguments)
            .env("STREAM_SUM_NATS__TLS_CA", &server_pair.0)
            .env("STREAM_SUM_NATS__TLS_CERT", cert)
            .env("STREAM_SUM_NATS__TLS_KEY", key)
            .env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "1s")
    };
    at("topology apply --partitions 1", &client_pair.0, &client_pair.1).run().expect(0);
    let refused = ["no secure connection to", "nats.tls_cert and nats.tls_key"];
    check(at("topology show", "", "").run(), 2, &refused);
    check(at("topology show", &stranger_pair.0, &stranger_pair.1).run(), 2, &refused);
    for (cert, key) in [(client_pair.0.as_str(), ""), ("", client_pair.1.as_str())] {
        check(at("topology show", cert, key).run(), 2, &["nats.tls_key", "given together with nats.tls_cert"]);
    }
    check(at("topology show", &client_pair.0, &stranger_pair.1).run(), 2, &refused);
}
