//! Precedence and validation: from what was given to [`Settings`].

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use figment::Figment;
use figment::value::Value;
use serde_json::{Map, Value as Json, json};

use super::given::{Given, Key, Origin};
use super::settings::Settings;
use super::sources::{self, Source};
use super::table::{Setting, settings};
use super::traces;
use crate::exit::one_line;

/// The settings, and who gave them.
pub struct Loaded {
    pub settings: Settings,
    /// What counted for each key, in the order of the table.
    pub origins: Vec<Given>,
}

impl Loaded {
    /// Whether somebody gave a value for the setting `key`.
    pub fn is_given(&self, key: &str) -> bool {
        self.origins.iter().any(|given| given.key.setting().key == key && !matches!(given.origin, Origin::Default))
    }
}

/// Everything that is wrong with what was given, one line each.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Reads the settings from `args` (those after the command) and from `source`.
pub fn load(args: &[OsString], source: &Source) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let defaults = sources::defaults(source);
    let mut figment = Figment::new();
    figment = join(figment, sources::flags(args, &mut problems));
    figment = join(figment, sources::variables(source, &mut problems));
    figment = join(figment, sources::file(&source.etc, &mut problems));
    let sites = join(figment.clone(), defaults.clone()).extract_inner("sites").expect("sites has a default");
    figment = join(figment, sites_file(sites, source, &mut problems));
    figment = join(figment, sources::conventional(source));
    figment = join(figment, defaults);

    let origins = effective(&figment);
    let mut fields = validate(&origins, &mut problems);
    fields.insert("traces".into(), json!(traces::read(source, &mut problems)));
    if !problems.is_empty() {
        return Err(Problems(problems.iter().map(|problem| one_line(problem)).collect()));
    }
    let mut settings: Settings = serde_json::from_value(fields.into()).expect("the table fits the struct");
    settings.sites = source.absolute(&settings.sites);
    settings.cache = settings.cache.map(|cache| source.absolute(&cache));
    Ok(Loaded { settings, origins })
}

/// `figment` with a layer below it. Within the layer a later text wins.
fn join(figment: Figment, layer: Vec<Given>) -> Figment {
    layer.into_iter().rev().fold(figment, Figment::join)
}

/// The `atrio.toml` in the folder of sites, which cannot say where that folder is.
fn sites_file(sites: PathBuf, source: &Source, problems: &mut Vec<String>) -> Vec<Given> {
    let path = source.absolute(&sites).join("atrio.toml");
    let mut found = sources::file(&path, problems);
    if found.extract_if(.., |given| given.key.setting().key == "sites").next().is_some() {
        problems.push(format!("{}: sites: names the folder that this file is in; remove it", path.display()));
    }
    found
}

/// The texts that count, with their origins as figment kept them.
fn effective(figment: &Figment) -> Vec<Given> {
    let given = |key, value: Value| {
        let origin = figment.get_metadata(value.tag()).map_or(Origin::Default, Origin::from);
        Given { key, text: value.into_string().unwrap_or_default(), origin }
    };
    let found = |setting: &Setting| figment.find_value(setting.key).ok();
    settings()
        .filter_map(|setting| Some(sources::keys(setting, found(setting)?)))
        .flatten()
        .map(|(key, value)| given(key, value))
        .collect()
}

/// The fields of [`Settings`], as far as the texts are valid.
fn validate(given: &[Given], problems: &mut Vec<String>) -> Map<String, Json> {
    let mut fields = Map::from_iter([("env".to_owned(), json!({}))]);
    for given in given {
        match &given.key {
            Key::Named(setting, name) => fields[setting.key][name] = json!(given.text),
            Key::Setting(setting) => match setting.parse(&given.text) {
                Ok(value) => {
                    fields.insert(setting.key.to_owned(), value);
                }
                Err(wrong) => problems.push(given.problem(&wrong)),
            },
        }
    }
    let is_default = |given: &Given| given.key.setting().key == "admin_listen" && given.origin == Origin::Default;
    fields.insert("admin_listen_is_default".into(), given.iter().any(is_default).into());
    fields
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::super::{Format, Listen, Preload, render};
    use super::*;

    /// A source in a folder of its own: nothing of the real environment reaches a test.
    struct Scene {
        folder: PathBuf,
        source: Source,
    }

    impl Scene {
        fn new(variables: &[(&str, &str)]) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("atrio-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(folder.join("sites")).unwrap();
            let source = Source {
                variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
                etc: folder.join("etc.toml"),
                sites: vec!["absent".into(), "sites".into()],
                directory: folder.clone(),
            };
            Scene { folder, source }
        }

        fn write(&mut self, file: &str, content: &str) -> &mut Self {
            fs::write(self.folder.join(file), content).unwrap();
            self
        }

        /// The variable names a file of the scene.
        fn name(&mut self, variable: &str, file: &str) -> &mut Self {
            self.source.variables.push((variable.into(), self.folder.join(file).into()));
            self
        }

        fn load(&self, args: &[&str]) -> Result<Loaded, Problems> {
            load(&args.iter().map(OsString::from).collect::<Vec<_>>(), &self.source)
        }

        fn settings(&self, args: &[&str]) -> Settings {
            self.load(args).unwrap_or_else(|problems| panic!("{problems}")).settings
        }

        /// The problems, with the scene's folder left out of paths.
        fn problems(&self, args: &[&str]) -> Vec<String> {
            let folder = format!("{}/", self.folder.display());
            let problems = self.load(args).map(|_| ()).expect_err("something is wrong");
            problems.0.iter().map(|problem| problem.replace(&folder, "")).collect()
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        let scene = Scene::new(&[]);
        let settings = scene.settings(&[]);
        assert_eq!(settings.sites, scene.folder.join("sites"));
        assert_eq!((settings.script.as_str(), settings.callable.as_str()), ("root.py", "application"));
        assert_eq!((settings.site, settings.venv, settings.workers), (None, None, None));
        assert_eq!((settings.threads, settings.queue, settings.preload), (8, 128, Preload::Auto));
        assert_eq!((settings.max_body, settings.max_header), (100_000_000, 65_536));
        assert_eq!(settings.keepalive_timeout, Duration::from_secs(75));
        assert_eq!(settings.listen, [Listen::Tcp(([0, 0, 0, 0], 8080).into())]);
        assert!(settings.admin_listen_is_default && settings.env.is_empty() && settings.python_path.is_empty());
    }

    #[test]
    fn settings_survive_the_way_to_a_child_process() {
        let variables = [("ATRIO_LISTEN", "unix:/run/a.sock,fd:web,[::]:80"), ("ATRIO_ENV_COLOUR", "blue")];
        let settings = Scene::new(&variables).settings(&[]);
        let sent = serde_json::to_string(&settings).unwrap();
        let received: Settings = serde_json::from_str(&sent).unwrap();
        assert_eq!(format!("{received:?}"), format!("{settings:?}"));
    }

    #[test]
    fn the_nearest_source_wins() {
        let mut scene = Scene::new(&[("WEB_CONCURRENCY", "2")]);
        assert_eq!(scene.settings(&[]).workers, Some(2));
        scene.write("sites/atrio.toml", "workers = 3");
        assert_eq!(scene.settings(&[]).workers, Some(3));
        scene.write("etc.toml", "workers = 4");
        assert_eq!(scene.settings(&[]).workers, Some(4));
        scene.source.variables.push(("ATRIO_WORKERS".into(), "5".into()));
        assert_eq!(scene.settings(&[]).workers, Some(5));
        assert_eq!(scene.settings(&["--workers", "6"]).workers, Some(6));
        assert_eq!(scene.settings(&["--workers=6", "--workers=auto"]).workers, None);
    }

    #[test]
    fn conventional_variables_are_believed_last() {
        let scene = Scene::new(&[("PORT", "9000"), ("FORWARDED_ALLOW_IPS", "*"), ("WEB_CONCURRENCY", "")]);
        let settings = scene.settings(&[]);
        assert_eq!(settings.listen, [Listen::Tcp(([0, 0, 0, 0], 9000).into())]);
        assert_eq!(settings.trusted_proxies.len(), 2);
        assert_eq!(settings.workers, None);
        assert!(scene.settings(&["--trusted-proxies", "off"]).trusted_proxies.is_empty());
    }

    #[test]
    fn a_file_may_use_the_types_of_toml() {
        let mut scene = Scene::new(&[]);
        let lists = "listen = [8080, 'unix:/run/a.sock']\npython_path = ['a', 'b']\n";
        let others = "preload = true\nadmin_listen = false\n[env]\nN = 7\nDEBUG = false\n'a.b' = '3.10'";
        scene.write("etc.toml", &[lists, others].concat());
        let settings = scene.settings(&[]);
        assert_eq!(settings.listen.len(), 2);
        assert_eq!(settings.python_path, [Path::new("a"), Path::new("b")]);
        assert_eq!(settings.preload, Preload::On);
        assert!(settings.admin_listen.is_empty() && !settings.admin_listen_is_default);
        let env: Vec<_> = settings.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["DEBUG=false", "N=7", "a.b=3.10"]);
    }

    #[test]
    fn a_text_is_never_taken_for_a_number() {
        let scene = Scene::new(&[("ATRIO_ENV_VERSION", "3.10"), ("ATRIO_CALLABLE", "1e3")]);
        let settings = scene.settings(&["--env", "A=0x10", "--env", "B=true=1"]);
        assert_eq!(settings.env["VERSION"], "3.10");
        assert_eq!((settings.env["A"].as_str(), settings.env["B"].as_str()), ("0x10", "true=1"));
        assert_eq!(settings.callable, "1e3");
    }

    #[test]
    fn names_in_env_are_merged_one_by_one() {
        let mut scene = Scene::new(&[("ATRIO_ENV_A", "variable")]);
        scene.write("etc.toml", "[env]\nA = 'file'\nB = 'file'");
        let settings = scene.settings(&["--env=C=flag"]);
        let env: Vec<_> = settings.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["A=variable", "B=file", "C=flag"]);
    }

    #[test]
    fn a_value_is_read_from_the_file_that_a_variable_names() {
        let mut scene = Scene::new(&[]);
        scene.write("secret", "s3cret\n").name("ATRIO_ENV_PASSWORD_FILE", "secret");
        scene.write("threads", "4\n").name("ATRIO_THREADS_FILE", "threads");
        let loaded = scene.load(&[]).unwrap();
        assert_eq!(loaded.settings.env["PASSWORD"], "s3cret");
        assert_eq!(loaded.settings.threads, 4);
        for format in [Format::Text, Format::Env, Format::Toml, Format::Json] {
            assert!(!render(&loaded, format).contains("s3cret"), "{format:?} shows the secret");
        }
    }

    #[test]
    fn a_secret_is_not_in_the_problem_with_it() {
        let mut scene = Scene::new(&[]);
        scene.write("secret", "s3cret").name("ATRIO_LISTEN_FILE", "secret");
        let remedy = "give host:port, unix:/path or fd:NAME, e.g. ATRIO_LISTEN=0.0.0.0:8080";
        let problem = format!("ATRIO_LISTEN_FILE=secret: the file's content is not valid; {remedy}");
        assert_eq!(scene.problems(&[]), [problem]);
    }

    #[test]
    fn a_value_and_its_file_exclude_each_other() {
        let mut scene = Scene::new(&[("ATRIO_THREADS", "4")]);
        scene.write("threads", "4").name("ATRIO_THREADS_FILE", "threads").name("ATRIO_QUEUE_FILE", "absent");
        let unreadable =
            "ATRIO_QUEUE_FILE=absent: No such file or directory (os error 2); name a file that can be read";
        assert_eq!(scene.problems(&[]), [unreadable, "ATRIO_THREADS and ATRIO_THREADS_FILE: both set; unset one"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let mut scene = Scene::new(&[("ATRIO_THREDS", "4"), ("ATRIO_ENV", "A=1"), ("THREADS", "4")]);
        scene.write("etc.toml", "worker = 1");
        let expected = [
            "--que-timeout: no such flag; did you mean --queue-timeout?",
            "ATRIO_THREDS: no such setting; did you mean ATRIO_THREADS?",
            "ATRIO_ENV: no such setting; did you mean ATRIO_ENV_NAME?",
            "etc.toml: worker: no such setting; did you mean workers?",
        ];
        assert_eq!(scene.problems(&["--que-timeout", "3s"]), expected);
    }

    #[test]
    fn the_announcements_of_a_service_called_atrio_are_no_settings() {
        let names = ["ATRIO_SERVICE_HOST", "ATRIO_SERVICE_PORT_HTTP", "ATRIO_PORT_8080_TCP_ADDR", "ATRIO_PORT"];
        Scene::new(&names.map(|name| (name, "tcp://10.0.0.1:8080"))).settings(&[]);
        let problems = Scene::new(&[("ATRIO_PORT", "8080")]).problems(&[]);
        assert!(problems[0].starts_with("ATRIO_PORT: no such setting"), "{problems:?}");
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let mut scene = Scene::new(&[("ATRIO_THREADS", "abc"), ("ATRIO_MAX_HEADER", "1"), ("PORT", "x")]);
        scene.write("etc.toml", "queue = 1.5\nqueue_timeout = '0s'").write("sites/atrio.toml", "sites = '/a'");
        let expected = [
            "--env: no value; give --env NAME=VALUE",
            "now: not expected here; see atrio --help",
            "etc.toml: queue: not a text; put it in quotes",
            "sites/atrio.toml: sites: names the folder that this file is in; remove it",
            "PORT=x: `x` is not a port; give host:port, unix:/path or fd:NAME, e.g. PORT=0.0.0.0:8080",
            "--workers=0: out of range; give `auto` or one from 1 to 512, e.g. --workers=auto",
            "ATRIO_THREADS=abc: not a whole number; give one from 1 to 1024, e.g. ATRIO_THREADS=8",
            r#"etc.toml: queue_timeout = "0s": out of range; give one from 1ms to 1day, e.g. queue_timeout = "30s""#,
            "ATRIO_MAX_HEADER=1: out of range; give one from 1KiB to 1MiB, e.g. ATRIO_MAX_HEADER=64KiB",
        ];
        assert_eq!(scene.problems(&["--workers=0", "--env", "A", "now"]), expected);
    }

    #[test]
    fn env_in_a_file_is_a_table() {
        let mut scene = Scene::new(&[]);
        scene.write("etc.toml", "env = 'A=1'");
        assert_eq!(scene.problems(&[]), [r#"etc.toml: env: not a table; write [env], and below it NAME = "value""#]);
    }

    #[test]
    fn a_problem_is_one_line() {
        let mut scene = Scene::new(&[("ATRIO_THREADS", "1\n2\x1b[2J")]);
        scene.write("etc.toml", "threads = 1\nqueue = = 2\n");
        let problems = scene.problems(&[]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("etc.toml: line 2 is not TOML: "), "{}", problems[0]);
        assert!(problems[1].starts_with(r"ATRIO_THREADS=1\n2\u{1b}[2J: not a whole number"), "{}", problems[1]);
    }
}
