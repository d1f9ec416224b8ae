//! Secrets in the files of an agent and in its answers: neither tells them to others.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster");
/// The gossip key.
const KEY: &str = "c2VjcmV0c2VjcmV0c2Vjcg==";

/// A server that keeps its state in a folder, under a umask that takes nothing away.
struct Keeping {
    process: Child,
    address: String,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Keeping {
    fn start(folder: &Path, keys: &str) -> Keeping {
        (0..5).find_map(|_| Keeping::try_start(folder, keys)).expect("an agent starts")
    }

    fn try_start(folder: &Path, keys: &str) -> Option<Keeping> {
        let sockets = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [http, dns, server, lan] = sockets.each_ref().map(|s| s.local_addr().unwrap().port());
        drop(sockets);
        let config = folder.join("agent.json");
        let text = format!(
            r#"{{"node_name":"keeps","server":true,"bootstrap_expect":1,"bind_addr":"127.0.0.1",
                "data_dir":"{}","encrypt":"{KEY}","log_level":"trace",
                "ports":{{"http":{http},"dns":{dns},"server":{server},"serf_lan":{lan},"serf_wan":-1}},{keys}}}"#,
            folder.join("data").display()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.join("out.log")).unwrap();
        let process = Command::new("/bin/sh")
            .args(["-c", r#"umask 000; exec "$0" agent -config-file "$1""#, PROGRAM])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let mut agent = Keeping { process, address: format!("127.0.0.1:{http}") };
        let mut is_there = false;
        until("the agent leads, or ends", || {
            is_there = agent.run(&["kv", "put", "a/key", "value"]).0;
            is_there || agent.process.try_wait().unwrap().is_some()
        });
        is_there.then_some(agent)
    }

    fn run(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(PROGRAM)
            .args(args)
            .env("CONSUL_HTTP_ADDR", &self.address)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn get(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// Calls `each` for all that is in a folder, and for the folder.
fn walk(path: &Path, each: &mut impl FnMut(&Path, &fs::Metadata)) {
    // Logs are written and removed meanwhile.
    let Ok(found) = fs::symlink_metadata(path) else { return };
    each(path, &found);
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), each);
        }
    }
}

#[test]
fn what_an_agent_keeps_is_nobody_elses_to_read() {
    for backend in ["wal", "sled"] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let keys = format!(r#""raft_logstore":{{"backend":"{backend}"}}"#);
        let open = |when: &str| {
            let mut files = 0;
            walk(&data, &mut |path, found| {
                files += usize::from(found.is_file());
                let others = found.mode() & 0o077;
                assert_eq!(others, 0, "{backend} {when}: {} {:o}", path.display(), found.mode());
            });
            assert!(files >= 5, "{backend} {when}: {files} files");
        };
        let agent = Keeping::start(folder.path(), &keys);
        assert!(agent.run(&["services", "register", "-name=web"]).0);
        let saved = folder.path().join("saved.snap");
        assert!(agent.run(&["snapshot", "save", saved.to_str().unwrap()]).0);
        assert_eq!(fs::metadata(&saved).unwrap().mode() & 0o777, 0o600);
        open("new");
        drop(agent);
        walk(&data, &mut |path, found| {
            let mode = if found.is_dir() { 0o755 } else { 0o644 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        });
        let agent = Keeping::start(folder.path(), &keys);
        open("after a restart");
        assert_eq!(agent.run(&["kv", "get", "a/key"]).1, "value\n");
    }
}

#[test]
fn no_secret_of_the_configuration_is_shown_or_logged() {
    const SECRET: &str = "s3cr3t";
    let folder = tempfile::tempdir().unwrap();
    let keys = format!(
        r#""retry_join":["127.0.0.1:1"],"enable_local_script_checks":true,
           "services":[{{"name":"web","token":"{SECRET}","port":1,"meta":{{"api_key":"m3ta"}},
             "checks":[
               {{"http":"http://user:{SECRET}@127.0.0.1:1/?token={SECRET}","interval":"1s",
                 "header":{{"Authorization":["Bearer {SECRET}"],"X-Own":["{SECRET}"]}},
                 "body":"{{\"pin\":\"{SECRET}\"}}"}},
               {{"args":["/bin/true","--password","{SECRET}","--token={SECRET}"],"interval":"1s"}},
               {{"args":["/bin/sh","-c","true {SECRET}"],"interval":"1s"}},
               {{"tcp":"{SECRET}@127.0.0.1:1","interval":"1s"}},
               {{"udp":"user:{SECRET}@127.0.0.1:1","interval":"1s"}},
               {{"h2ping":"{SECRET}:@127.0.0.1:1","interval":"1s"}},
               {{"grpc":"{SECRET}@127.0.0.1:1/svc?token={SECRET}","interval":"1s"}}]}}],
           "checks":[{{"id":"own","name":"own","http":"http://:{SECRET}@127.0.0.1:1","interval":"1s"}},
             {{"id":"name","name":"name","http":"http://{SECRET}@127.0.0.1:1","interval":"1s"}},
             {{"id":"both","name":"both","http":"http://{SECRET}:x-oauth-basic@127.0.0.1:1","interval":"1s"}}],
           "watches":[{{"type":"key","key":"a/key","handler":"false {SECRET}"}},
             {{"type":"key","key":"a/key","token":"{SECRET}","handler_type":"http",
             "http_handler_config":{{"path":"http://user:{SECRET}@127.0.0.1:1/","method":"POST",
               "header":{{"Authorization":["{SECRET}"]}}}}}}]"#
    );
    let agent = Keeping::start(folder.path(), &keys);
    until("the checks ran", || {
        let checks = agent.get("/v1/agent/checks");
        checks.matches("connection refused").count() >= 4
            && checks.matches("hidden@127.0.0.1").count() >= 4
    });
    let log = || fs::read_to_string(folder.path().join("out.log")).unwrap();
    until("the handlers failed", || log().matches("handler failed").count() >= 2);
    let shown =
        ["/v1/agent/self", "/v1/agent/checks", "/v1/health/state/any", "/v1/agent/services"]
            .map(|path| (path, agent.get(path)));
    assert!(shown[0].1.contains("hidden") && shown[0].1.contains("\"web\""), "{}", shown[0].1);
    for (what, text) in shown.into_iter().chain([("the log", log())]) {
        for secret in [SECRET, KEY] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{what} shows a secret");
        }
    }
}
