//! A whole agent on a disk that becomes full: writes are refused, reads go on, and with room again
//! all is as before.

use std::fs;
use std::io::Write;

use serde_json::json;

use crate::agents::{Agents, SmallDisk, without_root};

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again() {
    if without_root("a disk of its own") {
        return;
    }
    let mut agents = Agents::new(1, &json!({}));
    let disk = SmallDisk::mount(agents.folder.path(), "64m");
    agents.live_at("127.0.0.1", &json!({"data_dir": disk.0.join("data"), "bootstrap_expect": 1}));
    agents.start();
    agents.put(0, "first", "x");

    let ballast = disk.0.join("ballast");
    let zeros = vec![0; 64 << 10];
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&zeros).is_ok() {}
    drop(file);

    let server = &agents.servers[0];
    let value = "v".repeat(400 << 10);
    let mut written = 0;
    let refusal = loop {
        let (status, body) = server.ask("PUT", &format!("/v1/kv/k{written}"), &value).unwrap();
        if status != 200 {
            break (status, body);
        }
        written += 1;
        assert!(written < 1000, "nothing was refused");
    };
    assert_eq!(refusal.0, 500, "{}", refusal.1);
    assert!(refusal.1.contains("no room for the log's next segment"), "{}", refusal.1);
    // Refused, not lost and not ended: what is there is read, however often it is asked.
    for number in 0..written {
        assert_eq!(server.get(&format!("k{number}")).as_ref(), Some(&value), "{number}");
    }
    assert!(server.ask("GET", "/v1/kv/first?raw&consistent", "").unwrap().1 == "x");
    // Small ones still find a place in what was prepared, but not for ever.
    let small = "v".repeat(10 << 10);
    let refused = (0..200).find_map(|number| {
        let (status, body) = server.ask("PUT", &format!("/v1/kv/s{number}"), &small).unwrap();
        (status != 200).then_some((number, status, body))
    });
    let (small_written, status, body) = refused.expect("a refusal");
    assert!(status == 500 && body.contains("no room for the log's next segment"), "{body}");

    fs::remove_file(&ballast).unwrap();
    agents.put(0, "again", "x");
    agents.servers[0].kill();
    agents.servers[0].start();
    agents.until("it is back", |servers| servers[0].get("again").is_some());
    for number in 0..written {
        let found = agents.servers[0].get(&format!("k{number}"));
        assert!(found.is_some_and(|found| found.len() == value.len()), "{number} of {written}");
    }
    for number in 0..small_written {
        assert_eq!(agents.servers[0].get(&format!("s{number}")).as_ref(), Some(&small), "{number}");
    }
}
