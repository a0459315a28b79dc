//! The configuration of lard: `config/load_balancer.json`, with the original's key names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::file;
use crate::problem::ConfigError;
use crate::registry_api::{self, RegistryApiConfig};
use crate::section::Section;
use crate::sizes::Size;
use crate::values;
use crate::worker::admin_port;

/// The port of a balancer that names none.
pub const DEFAULT_PORT: u16 = 7079;

/// The keys that a running lard takes up when its file changes; for the others it must be started anew.
pub const LIVE_KEYS: [&str; 5] = ["Policy", "LoadFormula", "LoadHigh", "LoadLow", "Servers"];

/// How lard chooses a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyName {
    /// One after the other.
    RoundRobin,
    /// The least loaded.
    LeastLoaded,
    /// The less loaded of two at random.
    PowerOfTwo,
    /// By the handler's name, as long as the load allows it.
    ConsistentHashBoundedLoads,
    /// Locality-aware: the calls of a handler stay on a server until it is overloaded.
    Lard,
    /// Locality-aware with replication: a handler has as many servers as it needs.
    LardReplicated,
    /// Locality-aware: a handler leaves its server when to wait there costs more than to start elsewhere.
    CostAware,
}

/// How the load of a server is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFormula {
    /// Calls in flight.
    Connections,
    /// Mean of memory and CPU.
    AverageResource,
    /// Mean of memory, CPU and calls in flight.
    AverageResourceConnections,
    /// The larger of memory and CPU.
    DominantResource,
    /// The largest of memory, CPU and calls in flight.
    DominantResourceConnections,
}

const POLICIES: &[(&str, PolicyName)] = &[
    ("LARD", PolicyName::Lard),
    ("RoundRobin", PolicyName::RoundRobin),
    ("LeastLoaded", PolicyName::LeastLoaded),
    ("PowerOfTwo", PolicyName::PowerOfTwo),
    ("ConsistentHashBoundedLoads", PolicyName::ConsistentHashBoundedLoads),
    ("LARD/R", PolicyName::LardReplicated),
    ("CostAware", PolicyName::CostAware),
];
const FORMULAS: &[(&str, LoadFormula)] = &[
    ("Connections", LoadFormula::Connections),
    ("AverageResource", LoadFormula::AverageResource),
    ("AverageResourceConnections", LoadFormula::AverageResourceConnections),
    ("DominantResource", LoadFormula::DominantResource),
    ("DominantResourceConnections", LoadFormula::DominantResourceConnections),
];

/// A worker behind lard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `Name`: stands in logs and metrics; unique. Default: `host:port`.
    pub name: String,
    /// `Host`: a name or an address.
    pub host: String,
    /// `Port`.
    pub port: u16,
    /// `AdminPort`: where it says how loaded it is when it gets no calls. Default: `Port` and 1000, as a worker has it.
    pub admin_port: Option<u16>,
    /// `MaxConn`: calls in flight at most; none means no limit.
    pub max_conn: Option<u32>,
}

/// The configuration of lard, checked, with every default resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct BalancerConfig {
    /// The file that it was read from.
    pub file: PathBuf,
    /// `Host`: the name or address that it listens on.
    pub host: String,
    /// `Port`: where calls arrive.
    pub port: u16,
    /// `AdminPort`: where metrics and probes are.
    pub admin_port: u16,
    /// `Policy`.
    pub policy: PolicyName,
    /// `LoadFormula`.
    pub load_formula: LoadFormula,
    /// `Servers`; may be empty.
    pub servers: Vec<Server>,
    /// `LoadHigh`: a server with this load is overloaded.
    pub load_high: f64,
    /// `LoadLow`: a server below this load has room.
    pub load_low: f64,
    /// `MaxConn`: calls in flight in all. Default: the sum over the servers, or none if one of them has no limit.
    pub max_conn: Option<u32>,
    /// `MaxConnPerServer`: calls in flight to a server that has no `MaxConn` of its own.
    pub max_conn_per_server: Option<u32>,
    /// `QueueLength`: so many calls may wait.
    pub queue_length: u32,
    /// `QueueTimeout`: each waits so long at most.
    pub queue_timeout: Duration,
    /// `RequestLimit`: the longest body of a call.
    pub request_limit: Size,
    /// `Timeout` of one call, waiting included.
    pub timeout: Duration,
    /// `DrainTimeout`: calls in flight get so long at shutdown.
    pub drain_timeout: Duration,
    /// `RegistryApi`: whether it takes uploads; none means that it does not.
    pub registry_api: Option<RegistryApiConfig>,
}

impl BalancerConfig {
    /// Reads and checks a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::from_value(&file::read(path)?, path)
    }

    /// Checks a value as if it were read from `path`, which need not exist.
    pub fn from_value(value: &Value, path: &Path) -> Result<Self, ConfigError> {
        let mut root = Section::root(value);
        let config = read(&mut root, path);
        ConfigError::unless(path, root.finish(), config)
    }

    /// The file of a new cluster. `admin load-balancer` fills the servers in.
    pub fn template() -> Value {
        json!({
            "Host": "localhost",
            "Port": DEFAULT_PORT,
            "Scheme": "http",
            "Policy": "CostAware",
            "LoadFormula": "Connections",
            "Servers": [],
            "LoadHigh": 0.4,
            "LoadLow": 0.2
        })
    }

    /// The URL under which this machine reaches lard.
    pub fn local_url(&self) -> String {
        self.url(self.port)
    }

    /// The same of its admin port.
    pub fn admin_url(&self) -> String {
        self.url(self.admin_port)
    }

    fn url(&self, port: u16) -> String {
        let host = match self.host.parse() {
            Ok(ip) => crate::worker::reachable(ip).to_string(),
            Err(_) => self.host.clone(),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        format!("http://{host}:{port}")
    }
}

/// Reads every key. Where one is wrong its default stands in, and the section holds the problem.
fn read(root: &mut Section<'_>, path: &Path) -> BalancerConfig {
    let port = root.read("Port", DEFAULT_PORT, values::port);
    root.optional("Scheme", scheme);
    // The original saves its targets here; ours learns them anew within one call per handler.
    root.section("RequestServerMap");
    let max_conn_per_server = root.read("MaxConnPerServer", None, values::connections);
    let servers = servers(root, max_conn_per_server);
    let sum = servers.iter().try_fold(0_u32, |sum, server| sum.checked_add(server.max_conn?));
    let config = BalancerConfig {
        file: path.to_owned(),
        host: root.read("Host", "localhost".to_owned(), values::word),
        port,
        admin_port: admin_port(root, "AdminPort", "Port", port),
        policy: root.read("Policy", PolicyName::CostAware, one_of(POLICIES)),
        load_formula: root.read("LoadFormula", LoadFormula::Connections, one_of(FORMULAS)),
        max_conn: root.read("MaxConn", sum.filter(|sum| *sum > 0), values::connections),
        max_conn_per_server,
        queue_length: root.read("QueueLength", 1000, values::whole(0..=1_000_000)),
        queue_timeout: root.read("QueueTimeout", Duration::from_secs(10), values::duration),
        servers,
        load_high: root.read("LoadHigh", 0.4, values::fraction),
        load_low: root.read("LoadLow", 0.2, values::fraction),
        request_limit: root.read("RequestLimit", Size::from_mib(6), values::size_from(Size::from_bytes(1))),
        timeout: root.read("Timeout", Duration::from_secs(35), values::duration),
        drain_timeout: root.read("DrainTimeout", Duration::from_secs(30), values::duration_or_zero),
        registry_api: registry_api::read(root, path),
    };
    if config.load_low >= config.load_high {
        let message = format!("must be below LoadHigh, which is {}", config.load_high);
        root.blame("LoadLow", Some(&json!(config.load_low)), message);
    }
    config
}

fn scheme(value: &Value) -> Result<(), String> {
    match value.as_str() {
        Some("http") => Ok(()),
        _ => Err("must be \"http\": put a proxy that ends TLS in front of lard for https".to_owned()),
    }
}

fn one_of<T: Copy>(table: &'static [(&'static str, T)]) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| {
        let found = table.iter().find(|(name, _)| value.as_str() == Some(name));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> = table.iter().map(|(name, _)| format!("{name:?}")).collect();
            format!("must be one of {}", names.join(", "))
        })
    }
}

fn servers(root: &mut Section<'_>, max_conn: Option<u32>) -> Vec<Server> {
    let list = root.read("Servers", Vec::new(), |value| {
        value
            .as_array()
            .cloned()
            .ok_or_else(|| "must be a list of servers [{\"Host\": …, \"Port\": …}]".to_owned())
    });
    let mut names = BTreeSet::new();
    let mut servers = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let path = root.path_of(&format!("Servers[{index}]"));
        let mut section = Section::new(Some(value), path);
        let server = server(&mut section, max_conn);
        if !names.insert(server.name.clone()) {
            section.blame("Name", Some(&json!(server.name)), "stands twice: give each server its own name");
        }
        root.absorb(section.finish());
        servers.push(server);
    }
    servers
}

fn server(section: &mut Section<'_>, max_conn: Option<u32>) -> Server {
    section.optional("Scheme", scheme);
    for key in ["Host", "Port"] {
        if !section.has(key) {
            section.blame(key, None, "is missing");
        }
    }
    let host = section.read("Host", String::new(), values::word);
    let port = section.read("Port", 0, values::port);
    Server {
        name: section.optional("Name", values::word).unwrap_or_else(|| format!("{host}:{port}")),
        admin_port: section.optional("AdminPort", values::port).or_else(|| port.checked_add(1000)),
        host,
        port,
        max_conn: section.read("MaxConn", max_conn, values::connections),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(value: &Value) -> Result<BalancerConfig, ConfigError> {
        BalancerConfig::from_value(value, Path::new("/c/config/load_balancer.json"))
    }

    fn problems(value: &Value) -> Vec<String> {
        load(value).unwrap_err().problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_template_has_the_defaults() {
        let from_template = load(&BalancerConfig::template()).unwrap();
        assert_eq!(from_template, load(&json!({})).unwrap());
        assert_eq!((from_template.port, from_template.admin_port), (7079, 8079));
        assert_eq!(from_template.local_url(), "http://localhost:7079");
        assert_eq!((from_template.max_conn, from_template.policy), (None, PolicyName::CostAware));
    }

    #[test]
    fn every_key_of_the_original_is_accepted() {
        let server =
            |n: u32| json!({"Name": format!("w{n}"), "Scheme": "http", "Host": "h", "Port": n, "MaxConn": 4});
        let mut value = json!({
            "Host": "0.0.0.0", "Port": "80", "Scheme": "http", "Policy": "RoundRobin", "RequestServerMap": {},
            "LoadFormula": "DominantResourceConnections", "Servers": [server(1), server(2)], "LoadHigh": 0.9,
            "LoadLow": 0.1
        });
        let config = load(&value).unwrap();
        assert_eq!(config.max_conn, Some(8));
        assert_eq!(
            (config.local_url(), config.admin_url()),
            ("http://127.0.0.1:80".into(), "http://127.0.0.1:1080".into())
        );
        assert_eq!(config.load_formula, LoadFormula::DominantResourceConnections);
        let (name, host) = ("w2".into(), "h".into());
        let want = Server { name, host, port: 2, admin_port: Some(1002), max_conn: Some(4) };
        assert_eq!(config.servers[1], want);
        value["Servers"][1]["AdminPort"] = json!("7");
        assert_eq!(load(&value).unwrap().servers[1].admin_port, Some(7));
        value["Servers"][0]["MaxConn"] = json!(-1);
        assert_eq!(load(&value).unwrap().max_conn, None);
        value["MaxConn"] = json!(3);
        assert_eq!(load(&value).unwrap().max_conn, Some(3));
    }

    #[test]
    fn every_policy_has_its_name() {
        for (name, policy) in POLICIES {
            assert_eq!(load(&json!({"Policy": name})).unwrap().policy, *policy);
        }
    }

    #[test]
    fn ours_are_accepted() {
        let config = load(&json!({"AdminPort": 99, "RequestLimit": "1Mi", "Timeout": "5s"})).unwrap();
        assert_eq!((config.admin_port, config.request_limit), (99, Size::from_mib(1)));
        assert_eq!(config.timeout, Duration::from_secs(5));
    }

    #[test]
    fn a_queue_and_limits_for_servers_that_have_none() {
        let server = |n: u32| json!({"Host": "h", "Port": n});
        let mut value = json!({
            "Servers": [server(1), server(2)], "MaxConnPerServer": 5, "QueueLength": 0, "QueueTimeout": "2s",
            "DrainTimeout": "1h",
        });
        let config = load(&value).unwrap();
        assert_eq!((config.servers[0].max_conn, config.max_conn), (Some(5), Some(10)));
        assert_eq!((config.queue_length, config.queue_timeout), (0, Duration::from_secs(2)));
        assert_eq!(config.drain_timeout, Duration::from_secs(3600));
        value["Servers"][0]["MaxConn"] = json!(1);
        assert_eq!(load(&value).unwrap().max_conn, Some(6));
        value["Servers"] = json!([]);
        let config = load(&value).unwrap();
        assert_eq!((config.max_conn, config.max_conn_per_server), (None, Some(5)));
        assert!(problems(&json!({"QueueTimeout": "0s"}))[0].starts_with("QueueTimeout = \"0s\""));
    }

    #[test]
    fn all_problems_are_named() {
        let texts = problems(&json!({
            "port": 1, "Policy": "Random", "LoadFormula": "x", "LoadHigh": 0.1, "Scheme": "https",
            "Servers": [{"Hots": "h", "Port": 1}, {"Host": "a", "Port": 1}, {"Host": "a", "Port": 1}, 7]
        }));
        for part in [
            "port: unknown key; do you mean \"Port\"?",
            "Policy = \"Random\": must be one of \"LARD\", \"RoundRobin\"",
            "LoadFormula = \"x\": must be one of \"Connections\"",
            "LoadLow = 0.2: must be below LoadHigh",
            "Scheme = \"https\": must be \"http\"",
            "Servers[0].Hots: unknown key; do you mean \"Host\"?",
            "Servers[0].Host: is missing",
            "Servers[2].Name = \"a:1\": stands twice",
            "Servers[3] = 7: must be an object",
        ] {
            assert!(texts.iter().any(|text| text.starts_with(part)), "{part} is not in {texts:#?}");
        }
        assert!(problems(&json!({"Servers": {}}))[0].starts_with("Servers = {}: must be a list"));
        assert!(load(&json!("x")).is_err() && load(&json!(null)).is_err());
    }
}
