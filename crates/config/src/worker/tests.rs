//! Tests of the worker's configuration.

use super::*;

fn load(value: &Value) -> Result<WorkerConfig, ConfigError> {
    WorkerConfig::from_value(value, Path::new("/c/config/worker-0.json"))
}

/// The least that a file must have, and the given keys.
fn with(extra: &Value) -> Value {
    let mut value = json!({"registry_dir": "../registry", "worker_dir": "../workers/worker-0"});
    crate::merge::merge(&mut value, extra);
    value
}

/// The problems of the given keys as text.
fn problems(extra: &Value) -> Vec<String> {
    load(&with(extra)).unwrap_err().problems().iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_are_resolved() {
    let config = load(&with(&json!({}))).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.to_string(), "0.0.0.0:9080");
    assert_eq!(config.local_url(), "http://127.0.0.1:8080");
    assert_eq!(config.registry_dir, Path::new("/c/registry"));
    assert_eq!(config.worker_dir, Path::new("/c/workers/worker-0"));
    assert_eq!(config.packages_dir, Path::new("/c/packages"));
    assert_eq!((config.base, config.max_runners), (Base::Host, 1));
    assert_eq!((config.handler_cache, config.create_hard_limit), (Size::ZERO, None));
    assert_eq!(config.limits, LimitsConfig::default());
    assert_eq!(config.pause_after, Duration::from_millis(100));
}

#[test]
fn every_key_of_the_original_is_accepted() {
    let config = load(&json!({
        "registry": "local",
        "sandbox": "sock",
        "registry_dir": "/r",
        "registry_server": "",
        "registry_access_key": "",
        "registry_secret_key": "",
        "cluster_name": "/c",
        "pip_mirror": "http://mirror/simple",
        "Pkgs_dir": "/p",
        "max_runners": 4,
        "handler_cache_size": 524_288,
        "import_cache_size": 1024,
        "sandbox_create_hard_limit": 2048,
        "sanbox_create_queue_size": 7,
        "handler_usage_update_interval": 3,
        "worker_dir": "/w",
        "SOCK_base_path": "../base",
        "worker_port": "8081",
        "cg_pool_size": 5,
        "Skip_pull_existing": true,
        "sandbox_config": {"processes": 10},
        "benchmark_log": "bench.txt",
        "timing": true,
        "startup_pkgs": ["numpy"],
        "docker_runtime": "runsc"
    }))
    .unwrap();
    assert_eq!(config.listen.port(), 8081);
    assert_eq!(config.handler_cache, Size::from_mib(512));
    assert_eq!(config.create_hard_limit, Some(Size::from_mib(2)));
    assert_eq!((config.create_queue, config.cgroup_pool, config.max_runners), (7, 5, 4));
    assert_eq!(config.usage_interval, Duration::from_secs(3));
    assert_eq!(config.base, Base::Dir("/c/base".into()));
    assert_eq!(config.benchmark_log.as_deref(), Some(Path::new("/c/config/bench.txt")));
    assert_eq!(config.startup_packages, ["numpy"]);
    assert_eq!(config.pip_mirror.as_deref(), Some("http://mirror/simple"));
}

#[test]
fn our_keys_are_accepted() {
    let config = load(&with(&json!({
        "worker_port": 8080, "admin_port": 9, "worker_host": "127.0.0.1", "response_details": true,
        "limits": {"memory": "64Mi", "cpu": "500m", "cpu_weight": 50, "pids": 8, "open_files": 64, "timeout": "1500ms", "scratch": "1Mi",
                   "request": "1Mi", "response": "2Mi", "log": 0},
        "memory_pool": "2Gi", "max_instances": 3, "queue_length": 0, "queue_timeout": "1s", "pause_after": "0s", "idle_timeout": "1m",
        "drain_timeout": "0s", "python": "/opt/python", "data_threads": 2, "sandbox_create_queue_size": 9,
        "handler_cache_size": "512Mi", "packages_size": "1Gi", "packages_ca": "ca.pem", "allow_source_builds": true, "uv": "/opt/uv"
    })))
    .unwrap();
    assert_eq!((config.packages_size, config.allow_source_builds), (Size::from_mib(1024), true));
    assert_eq!(config.packages_ca.as_deref(), Some(Path::new("/c/config/ca.pem")));
    assert_eq!(config.uv.as_deref(), Some(Path::new("/opt/uv")));
    assert_eq!(config.admin.to_string(), "127.0.0.1:9");
    assert_eq!(config.limits.cpu_millis, Some(500));
    assert_eq!((config.limits.cpu_weight, config.limits.open_files), (50, 64));
    assert_eq!(config.memory_pool, Some(Size::from_mib(2048)));
    assert_eq!(config.limits.timeout, Duration::from_millis(1500));
    assert_eq!((config.create_queue, config.queue_length, config.data_threads), (9, 0, 2));
    assert_eq!(config.handler_cache, Size::from_kib(524_288));
}

#[test]
fn all_unknown_keys_are_named_with_the_nearest() {
    assert_eq!(
        problems(&json!({"handler_cach_size": 0, "worker_prt": 1, "limits": {"memry": 1}})),
        [
            "limits.memry: unknown key; do you mean \"memory\"?",
            "handler_cach_size: unknown key; do you mean \"handler_cache_size\"?",
            "worker_prt: unknown key; do you mean \"worker_port\"?",
        ]
    );
}

#[test]
fn wrong_types_and_values_are_named_together() {
    let texts = problems(&json!({
        "timing": "yes", "worker_port": "http", "handler_cache_size": "512MB", "max_runners": -1,
        "queue_timeout": 10, "limits": {"memory": 128, "cpu": "0"}, "startup_pkgs": "numpy", "python": "python3"
    }));
    assert_eq!(texts.len(), 9, "{texts:#?}");
    for start in [
        "timing = \"yes\": must be true or false",
        "worker_port = \"http\": must be a port",
        "handler_cache_size = \"512MB\": is no quantity",
        "max_runners = -1: must be a whole number from 0",
        "queue_timeout = 10: has no unit: write for example \"10s\"",
        "limits.memory = 128: must be at least 16Mi (a number is KB)",
        "limits.cpu = \"0\": must be a number of cores",
        "startup_pkgs = \"numpy\": must be a list",
        "python = \"python3\": must be an absolute path",
    ] {
        assert!(texts.iter().any(|text| text.starts_with(start)), "{start} is not in {texts:#?}");
    }
    assert!(load(&json!([])).is_err() && load(&json!(null)).is_err());
}

#[test]
fn what_the_original_had_and_we_have_not_is_refused_with_a_way_out() {
    let text = problems(&json!({"sandbox": "docker"})).concat();
    assert!(text.contains("only \"sock\"") && text.contains("setconf"), "{text}");
    let text = problems(&json!({"registry_secret_key": "hush"})).concat();
    assert!(text.contains("registry_secret_key") && !text.contains("hush"), "{text}");
}

#[test]
fn contradictions_are_named() {
    assert_eq!(problems(&json!({"sandbox_create_queue_size": 1, "sanbox_create_queue_size": 1})).len(), 1);
    assert!(problems(&json!({"worker_port": 8080, "admin_port": 8080}))[0].contains("choose another port"));
    assert!(problems(&json!({"worker_port": 65_000}))[0].contains("set it"));
    let missing = load(&json!({})).unwrap_err().to_string();
    assert!(missing.contains("registry_dir: is missing") && missing.contains("worker_dir: is missing"));
}

#[test]
fn the_template_is_a_template() {
    let cluster = ClusterDir::new("/c").unwrap();
    let mut template = WorkerConfig::template(&cluster, "host");
    WorkerConfig::check_template(&template, &cluster.template()).unwrap();
    assert!(WorkerConfig::from_value(&template, &cluster.template()).is_err(), "it has no worker_dir");
    template["worker_port"] = json!("?");
    WorkerConfig::check_template(&template, &cluster.template()).unwrap();
    template["sandbox"] = json!("docker");
    assert!(WorkerConfig::check_template(&template, &cluster.template()).is_err());
    assert!(WorkerConfig::check_template(&json!("x"), &cluster.template()).is_err());
}

#[test]
fn files_are_loaded_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("worker-0.json");
    file::write(&file, &with(&json!({}))).unwrap();
    assert_eq!(WorkerConfig::load(&file).unwrap().file, file);
    file::write(&file, &with(&json!({"x": 1}))).unwrap();
    assert!(WorkerConfig::load(&file).unwrap_err().to_string().starts_with(&*file.to_string_lossy()));
}
