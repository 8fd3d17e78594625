//! The terminal: what is drawn in it, and what keys do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line as Text;

use crate::instance::Address;
use crate::metrics::report::Report;

use super::ask;
use super::lines::{Line, Look, Order, lines};

/// Between two questions.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a key or an answer may wait for the other.
const TICK: Duration = Duration::from_millis(100);

/// Shows the instance until the user, or a signal, ends it. The terminal is then as it was before; after a panic, too.
pub fn run(address: Address) -> io::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        signal_hook::flag::register(signal, ended.clone())?;
    }
    let answers = listen(address);
    let mut terminal = ratatui::try_init()?;
    let result = Screen::default().show(&mut terminal, &answers, &ended);
    ratatui::try_restore()?;
    result
}

/// Asks again and again, beside whoever reads the keys.
fn listen(address: Address) -> Receiver<Result<Report, String>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while sender.send(ask(&address)).is_ok() {
            std::thread::sleep(PERIOD);
        }
    });
    receiver
}

#[derive(Default)]
struct Screen {
    now: Option<Report>,
    before: Option<Report>,
    /// Why there is no newer report.
    trouble: Option<String>,
    order: Order,
    /// Lines above the first one that is seen.
    scrolled: usize,
}

impl Screen {
    fn show(
        mut self,
        terminal: &mut DefaultTerminal,
        answers: &Receiver<Result<Report, String>>,
        ended: &AtomicBool,
    ) -> io::Result<()> {
        while !ended.load(Relaxed) {
            terminal.draw(|frame| self.draw(frame))?;
            // A signal interrupts the wait.
            let is_event =
                event::poll(TICK).or_else(|e| if e.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(e) });
            if is_event?
                && let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && !self.press(key)
            {
                break;
            }
            for answer in answers.try_iter() {
                self.take(answer);
            }
        }
        Ok(())
    }

    fn take(&mut self, answer: Result<Report, String>) {
        match answer {
            Ok(report) => {
                self.before = self.now.replace(report);
                self.trouble = None;
            }
            Err(reason) => self.trouble = Some(reason),
        }
    }

    /// False: the user has seen enough.
    fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('j') | KeyCode::Down => self.scrolled += 1,
            KeyCode::Char('k') | KeyCode::Up => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scrolled += 10,
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home | KeyCode::Char('g') => self.scrolled = 0,
            KeyCode::Char('s') => self.order = self.order.next(),
            _ => {}
        }
        true
    }

    fn draw(&mut self, frame: &mut Frame) {
        let area = frame.area();
        let Some(room) = area.height.checked_sub(1).map(usize::from) else { return };
        let mut all = self.now.as_ref().map_or_else(Vec::new, |now| lines(now, self.before.as_ref(), self.order));
        if let Some(trouble) = &self.trouble {
            all.insert(0, Line { text: format!("{trouble} Trying again …"), look: Look::Failure });
        } else if all.is_empty() {
            all.push(Line { text: "…".into(), look: Look::Plain });
        }
        self.scrolled = self.scrolled.min(all.len().saturating_sub(room));
        let is_old = self.trouble.is_some();
        let buffer = frame.buffer_mut();
        for (y, line) in (area.top()..).zip(all.iter().skip(self.scrolled).take(room)) {
            let mut style = style(line.look);
            if is_old && line.look != Look::Failure {
                style = style.add_modifier(Modifier::DIM);
            }
            buffer.set_line(area.left(), y, &Text::styled(line.text.as_str(), style), area.width);
        }
        let below = all.len().saturating_sub(self.scrolled + room);
        let more = if below > 0 { format!("   {below} more lines") } else { String::new() };
        let keys = format!("q quit   j k scroll   s sorted by {}{more}", self.order.name());
        let keys = Text::styled(keys, Style::new().add_modifier(Modifier::DIM));
        buffer.set_line(area.left(), area.bottom() - 1, &keys, area.width);
    }
}

/// Colours of the terminal's own palette, light or dark.
fn style(look: Look) -> Style {
    match look {
        Look::Title => Style::new().add_modifier(Modifier::BOLD),
        Look::Heading => Style::new().add_modifier(Modifier::UNDERLINED),
        Look::Plain => Style::new(),
        Look::Conspicuous => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
        Look::Failure => Style::new().fg(Color::Red),
    }
}
