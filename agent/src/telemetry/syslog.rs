//! The system's log: one datagram per line, to the socket where it is listened on.

use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::Level;

use super::Error;

/// Sockets of the system's log, in order of preference.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Names of facilities; the position is the number, with the unnamed ones left out.
const FACILITIES: [(&str, u8); 20] = [
    ("KERN", 0),
    ("USER", 1),
    ("MAIL", 2),
    ("DAEMON", 3),
    ("AUTH", 4),
    ("SYSLOG", 5),
    ("LPR", 6),
    ("NEWS", 7),
    ("UUCP", 8),
    ("CRON", 9),
    ("AUTHPRIV", 10),
    ("FTP", 11),
    ("LOCAL0", 16),
    ("LOCAL1", 17),
    ("LOCAL2", 18),
    ("LOCAL3", 19),
    ("LOCAL4", 20),
    ("LOCAL5", 21),
    ("LOCAL6", 22),
    ("LOCAL7", 23),
];

/// An open socket.
#[derive(Debug)]
pub(super) struct Syslog {
    socket: UnixDatagram,
    facility: u8,
}

impl Syslog {
    pub(super) fn open(facility: &str) -> Result<Syslog, Error> {
        Syslog::at(&SOCKETS, facility)
    }

    fn at(sockets: &[&str], facility: &str) -> Result<Syslog, Error> {
        let upper = facility.to_uppercase();
        let facility = FACILITIES
            .iter()
            .find(|(name, _)| *name == upper)
            .map(|(_, number)| *number)
            .ok_or_else(|| Error::Facility(facility.to_owned()))?;
        let socket = UnixDatagram::unbound().map_err(Error::Syslog)?;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in sockets {
            match socket.connect(path) {
                Ok(()) => {
                    // A system log that does not keep up must not hold the agent back.
                    socket.set_nonblocking(true).map_err(Error::Syslog)?;
                    return Ok(Syslog { socket, facility });
                }
                Err(error) => last = error,
            }
        }
        Err(Error::Syslog(last))
    }

    /// Sends a line; one that the system's log does not take is lost, as with every datagram.
    pub(super) fn write(&self, level: Level, line: &[u8]) {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let head = format!("<{}>muster[{}]: ", self.facility * 8 + severity, std::process::id());
        let mut datagram = head.into_bytes();
        datagram.extend_from_slice(line.trim_ascii_end());
        let _ = self.socket.send(&datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let listener = UnixDatagram::bind(&path).expect("bound");
        let path = path.to_str().expect("text");
        let log = Syslog::at(&["/nonexistent", path], "local0").expect("open");
        log.write(Level::WARN, b"it is so\n");
        let mut bytes = [0; 100];
        let count = listener.recv(&mut bytes).expect("received");
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert_eq!(text, format!("<132>muster[{}]: it is so", std::process::id()));
        assert!(matches!(Syslog::at(&[path], "LOCAL9"), Err(Error::Facility(_))));
        assert!(matches!(Syslog::at(&["/nonexistent"], "DAEMON"), Err(Error::Syslog(_))));
    }
}
