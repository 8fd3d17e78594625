//! The one definition of the settings: parsing, help, `atrio config`, `config/atrio.env` and the README follow it.

use std::ops::RangeInclusive;
use std::time::Duration;

use Kind::{AccessLog, Addresses, Choice, LogFilter, Mode, Named, Networks, Path, Paths, Size, Text, Time, Whole};

/// Settings of one purpose, under their heading.
pub struct Group {
    pub title: &'static str,
    pub settings: &'static [Setting],
}

/// A setting as users see it.
pub struct Setting {
    /// Name of the field in [`Settings`](super::Settings), from which flag and variable are made.
    pub key: &'static str,
    pub kind: Kind,
    /// The text that stands where nobody gives one. Empty: there is no value.
    pub default: &'static str,
    pub meaning: &'static str,
    /// The word that stands for no value.
    pub none: Option<&'static str>,
    /// A variable that platforms set by convention, believed when nobody gives a value.
    pub conventional: Option<&'static str>,
}

/// What the text of a setting must be.
pub enum Kind {
    Whole(RangeInclusive<u64>),
    Time(RangeInclusive<Duration>),
    /// Bytes.
    Size(RangeInclusive<u64>),
    Text,
    Path,
    Paths,
    Choice(&'static [&'static str]),
    Addresses,
    Networks,
    LogFilter,
    /// A form and conditions.
    AccessLog,
    /// Bits of file permissions, octal.
    Mode,
    /// Texts, each under a name of the user's choice.
    Named,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=DAY;
const SOME_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;

/// The table.
pub static GROUPS: &[Group] = &[
    Group {
        title: "Sites",
        settings: &[
            setting("sites", Path, "/sites", "folder with `root.py`, or with folders that have one; else `./sites`"),
            setting("site", Text, "", "which one to serve, by the name of its folder, when there are several").or(""),
            setting("script", Text, "root.py", "the file that declares the application, as WSGIScriptAlias"),
            setting("callable", Text, "application", "the application's name in it, as WSGICallableObject"),
            setting("python_path", Paths, "", "folders to import from, as python-path=").or(""),
            setting("venv", Path, "", "virtual environment, as python-home=; a `.venv` beside the script is found")
                .or(""),
            setting(
                "requirements",
                Path,
                "auto",
                "packages to install at start; `auto`: `requirements.txt` beside the script, unless a `.venv` or `site-packages` is there; `off`",
            )
            .or("off"),
            setting(
                "cache",
                Path,
                "auto",
                "folder for what is installed; `auto`: `/var/cache/atrio`, else `~/.cache/atrio`, else one in `TMPDIR`",
            )
            .or("auto"),
            setting("env", Named, "", "placed in the WSGI `environ` as NAME, as SetEnv"),
        ],
    },
    Group {
        title: "Addresses",
        settings: &[
            setting("listen", Addresses, "0.0.0.0:8080", "where sites are served; also `unix:/path`, `fd:NAME`")
                .else_from("PORT"),
            setting("admin_listen", Addresses, "127.0.0.1:9090", "`/metrics /livez /readyz /startupz /status`; `off`")
                .or("off"),
            setting("trusted_proxies", Networks, "127.0.0.1,::1", "whose X-Request-ID is believed; `off`")
                .or("off")
                .else_from("FORWARDED_ALLOW_IPS"),
        ],
    },
    Group {
        title: "Workers",
        settings: &[
            setting("workers", Whole(1..=512), "auto", "processes a site; `auto`: the CPUs that the cgroup grants")
                .or("auto")
                .else_from("WEB_CONCURRENCY"),
            setting("threads", Whole(1..=1024), "8", "app threads a worker, as threads="),
            setting(
                "preload",
                Choice(&["auto", "on", "off"]),
                "auto",
                "import once and fork; `auto`: where that is safe",
            ),
            setting("user", Text, "", "whom they run as, as user=; addresses are bound before that").or(""),
            setting("group", Text, "", "their group, as group=; else the user's").or(""),
            setting("umask", Mode, "", "the permissions that their files lack, as umask=; octal, as `0027`").or(""),
        ],
    },
    Group {
        title: "Limits",
        settings: &[
            setting("queue", Whole(1..=1_000_000), "128", "requests a worker lets wait; past it 503"),
            setting("queue_timeout", Time(SOME_TIME), "30s", "a request that waited longer gets 503 and never runs"),
            setting("header_timeout", Time(SOME_TIME), "10s", "for a whole request head; past it 408"),
            setting("body_timeout", Time(SOME_TIME), "30s", "of silence within a request body; past it 408"),
            setting("keepalive_timeout", Time(SOME_TIME), "75s", "of silence between the requests of a connection"),
            setting("max_body", Size(0..=TIB), "100MB", "of a request body; past it 413"),
            setting("max_header", Size(KIB..=MIB), "64KiB", "of a request head; past it 431"),
            setting("max_connections", Whole(1..=1_000_000), "10000", "that a worker keeps open"),
        ],
    },
    Group {
        title: "Shutdown and reload",
        settings: &[
            setting("drain_delay", Time(ANY_TIME), "0s", "still accept for so long after SIGTERM, for load balancers"),
            setting("drain_timeout", Time(SOME_TIME), "30s", "for accepted requests to finish"),
        ],
    },
    Group {
        title: "Logs",
        settings: &[
            setting("log", LogFilter, "info", "level, or levels by target, as `info,hyper=debug`"),
            setting("log_format", Choice(&["auto", "text", "json"]), "auto", "`auto`: text on a terminal, else JSON"),
            setting(
                "access_log",
                AccessLog,
                "on",
                "`on`, `off`, `common`, `combined`, `json`; with `slow=1s` those that take so long, with `sample=5%` that part of the others",
            ),
        ],
    },
];

/// Every setting, in the order of the table.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Setting {
    Setting { key, kind, default, meaning, none: None, conventional: None }
}

impl Setting {
    const fn or(mut self, none: &'static str) -> Self {
        self.none = Some(none);
        self
    }

    const fn else_from(mut self, variable: &'static str) -> Self {
        self.conventional = Some(variable);
        self
    }

    /// The variable, as `ATRIO_THREADS`.
    pub fn variable(&self) -> String {
        let name = self.key.to_uppercase();
        if self.is_named() { format!("ATRIO_{name}_NAME") } else { format!("ATRIO_{name}") }
    }

    /// The flag, as `--queue-timeout`.
    pub fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// What stands for the value in help.
    pub fn placeholder(&self) -> String {
        let word = match self.kind {
            Whole(_) => "N",
            Time(_) => "TIME",
            Size(_) => "SIZE",
            Text => "NAME",
            Path => "PATH",
            Paths => "PATH,…",
            Choice(words) => return words.join("|"),
            Addresses => "ADDRESS,…",
            Networks => "NETWORK,…",
            LogFilter => "LEVEL",
            AccessLog => "FORM,…",
            Mode => "MODE",
            Named => "NAME=VALUE",
        };
        word.to_owned()
    }

    /// Whether this is a family of values, such as `ATRIO_ENV_*`.
    pub fn is_named(&self) -> bool {
        matches!(self.kind, Named)
    }
}
