//! The terminal: taken over for as long as this lives, given back as it was.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::frame::{Line, Size, Tone};

/// Another screen without a cursor, so that what was there before is there again afterwards.
const TAKE: &str = "\x1b[?1049h\x1b[?25l";
const GIVE_BACK: &str = "\x1b[?25h\x1b[?1049l";
/// Size assumed for a terminal that does not tell.
const SIZE_USUAL: Size = Size { columns: 80, rows: 24 };
/// Ctrl-C and Ctrl-D as bytes.
const ENDS: [u8; 4] = [b'q', b'Q', 3, 4];

/// A pressed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Redraw,
}

pub(super) struct Screen {
    /// Settings of the terminal before, if keys are read from one.
    before: Option<Termios>,
    keys: mpsc::Receiver<u8>,
    resized: Signal,
}

impl Screen {
    pub(super) fn open() -> io::Result<Screen> {
        let resized = signal(SignalKind::window_change())?;
        let (sender, keys) = mpsc::channel(16);
        let mut screen = Screen { before: None, keys, resized };
        if io::stdin().is_terminal() {
            let before = tcgetattr(io::stdin())?;
            let mut single = before.clone();
            // Keys come one by one and unseen; Ctrl-C and Ctrl-Z come as keys too, so that nothing stops
            // the program while the terminal is not as it was.
            single.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            single.special_codes[SpecialCodeIndex::VMIN] = 1;
            single.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(io::stdin(), OptionalActions::Now, &single)?;
            screen.before = Some(before);
            std::thread::spawn(move || {
                for byte in io::stdin().lock().bytes().map_while(Result::ok) {
                    if sender.blocking_send(byte).is_err() {
                        return;
                    }
                }
            });
        }
        print(TAKE)?;
        Ok(screen)
    }

    /// Current size.
    pub(super) fn size() -> Size {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
            }
            _ => SIZE_USUAL,
        }
    }

    /// Shows lines in place of what was there.
    pub(super) fn show(lines: &[Line]) -> io::Result<()> {
        let colors = std::env::var_os("NO_COLOR").is_none();
        let mut text = String::from("\x1b[H");
        for (number, line) in lines.iter().enumerate() {
            if number > 0 {
                text.push_str("\r\n");
            }
            let code = match line.tone {
                Tone::Plain => "",
                Tone::Bold => "\x1b[1m",
                Tone::Warn if colors => "\x1b[33m",
                Tone::Bad if colors => "\x1b[31m",
                Tone::Warn | Tone::Bad => "\x1b[7m",
            };
            text.push_str(code);
            // Names come from others: nothing in them may steer the terminal.
            text.extend(line.text.chars().map(|c| if c.is_control() { '?' } else { c }));
            text.push_str("\x1b[0m\x1b[K");
        }
        text.push_str("\x1b[J");
        print(&text)
    }

    /// Waits for a key that means something, or for another size.
    pub(super) async fn key(&mut self) -> Key {
        loop {
            tokio::select! {
                _ = self.resized.recv() => return Key::Redraw,
                key = self.keys.recv() => match key {
                    Some(key) if ENDS.contains(&key) => return Key::Quit,
                    Some(_) => {}
                    // No keys from here: signals end it.
                    None => {
                        self.resized.recv().await;
                        return Key::Redraw;
                    }
                }
            }
        }
    }

    /// Waits for a key that ends.
    pub(super) async fn quit(&mut self) {
        while self.key().await != Key::Quit {}
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nothing left to do about a terminal that is gone.
        let _ = print(GIVE_BACK);
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
