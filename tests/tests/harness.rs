//! Tests of the harness itself, the part that needs no root: API clusters and the processes they are made of.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use mcpscale_tests::{
    ApiCluster, HarnessError, api, eventually,
    process::{self, ProcessId, Processes},
    tools,
};

/// What the run that is to crash prints before the folder of its cluster.
const ANNOUNCEMENT: &str = "cluster in ";

/// The processor time that an API cluster may use until it is ready. A start needs about 3 s of it on an idle machine,
/// twice as much where the processor is half as fast, and more where others take its caches.
const PROCESSOR_LIMIT: Duration = Duration::from_secs(12);
/// How long an API cluster may take to be ready, whatever else the machine does.
const LIMIT: Duration = Duration::from_secs(30);

fn config_map(name: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object
}

/// Lost otherwise: tests that run side by side, and feedback within seconds.
#[tokio::test]
async fn two_api_clusters_are_ready_side_by_side_within_seconds_each() {
    tools::component("kube-apiserver").expect("the binary is built before time is taken");
    let timed = async || {
        let start = Instant::now();
        let cluster = ApiCluster::start().await.expect("an API cluster");
        let took = start.elapsed();
        let components = Processes::in_folder(cluster.folder()).recorded();
        assert_eq!(components.len(), 2, "etcd and kube-apiserver");
        let used: Duration = components
            .iter()
            .map(|component| component.id.processor_time().expect("it runs"))
            .sum();
        println!("ready after {took:?}, of the processor {used:?}");
        assert!(took < LIMIT, "it took {took:?}");
        assert!(used < PROCESSOR_LIMIT, "it used {used:?} of processor time");
        cluster
    };
    let (first, second) = tokio::join!(timed(), timed());

    let in_first: Api<ConfigMap> = Api::namespaced(first.client(), "default");
    let in_second: Api<ConfigMap> = Api::namespaced(second.client(), "default");
    in_first
        .create(&PostParams::default(), &config_map("only-here"))
        .await
        .expect("the object is made");
    assert!(in_first.get_opt("only-here").await.expect("an answer").is_some());
    assert!(
        in_second.get_opt("only-here").await.expect("an answer").is_none(),
        "the two share objects"
    );
}

/// Lost otherwise: an operator that writes all the time would pass for one that is quiet.
#[tokio::test]
async fn writes_are_counted_and_reads_are_not() {
    let cluster = ApiCluster::start().await.expect("an API cluster");
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let before = Timestamp::now();
    api.create(&PostParams::default(), &config_map("counted"))
        .await
        .expect("the object is made");
    api.get("counted").await.expect("the object is read");
    api.delete("counted", &DeleteParams::default())
        .await
        .expect("the object is deleted");

    let writes = cluster.audit_writes("admin", before).expect("the audit log is read");
    let seen: Vec<_> = writes
        .iter()
        .map(|write| (write.verb.as_str(), write.resource.as_str(), write.code))
        .collect();
    assert_eq!(seen, [("create", "configmaps", 201), ("delete", "configmaps", 200)]);
    assert!(writes.iter().all(|write| write.namespace == "default"), "{writes:?}");
    assert!(
        cluster
            .audit_writes("somebody-else", before)
            .expect("the audit log is read")
            .is_empty()
    );
    assert!(
        cluster
            .audit_writes("admin", Timestamp::now())
            .expect("the audit log is read")
            .is_empty()
    );
}

/// Lost otherwise: tests of deletion would see children stay that a real cluster removes.
#[tokio::test]
async fn the_garbage_collector_runs_when_it_is_asked_for() {
    let cluster = ApiCluster::start_with_controllers(&["garbage-collector-controller"])
        .await
        .expect("an API cluster");
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let owner = api
        .create(&PostParams::default(), &config_map("owner"))
        .await
        .expect("the owner is made");
    let mut child = config_map("child");
    child.metadata.owner_references = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: "owner".to_owned(),
        uid: owner.metadata.uid.expect("the owner has a uid"),
        ..Default::default()
    }]);
    api.create(&PostParams::default(), &child)
        .await
        .expect("the child is made");
    api.delete("owner", &DeleteParams::background())
        .await
        .expect("the owner is deleted");
    eventually(
        Duration::from_mins(1),
        "the child to go with its owner",
        async || match api.get_opt("child").await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(_) => Err("it is still there".to_owned()),
        },
    )
    .await
    .expect("the child goes");
}

/// Lost otherwise: each interrupted run would leave processes and folders on a developer's machine.
#[test]
fn a_cluster_whose_test_was_killed_is_removed_by_the_next_start_and_once_more_does_no_harm() {
    let mut killed = Command::new(env::current_exe().expect("the path of this test"))
        .args([
            "--exact",
            "start_a_cluster_and_wait_to_be_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the run that is to crash");
    let output = BufReader::new(killed.stdout.take().expect("its output"));
    let folder = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| Some(PathBuf::from(line.split_once(ANNOUNCEMENT)?.1)))
        .expect("the folder of its cluster");
    let components: Vec<ProcessId> = Processes::in_folder(&folder)
        .recorded()
        .into_iter()
        .map(|process| process.id)
        .collect();
    assert_eq!(components.len(), 2, "etcd and kube-apiserver are recorded");

    killed.kill().expect("SIGKILL");
    killed.wait().expect("its end");
    assert!(
        components.iter().all(ProcessId::is_running),
        "the components outlive the crash"
    );

    api::remove_abandoned().expect("the first clean-up");
    assert!(!components.iter().any(ProcessId::is_running), "a component still runs");
    assert!(!folder.exists(), "{} is still there", folder.display());
    api::remove_abandoned().expect("the second clean-up");
}

/// The other half of the test above: the run that crashes.
#[tokio::test]
#[ignore = "started by another test, which kills it"]
async fn start_a_cluster_and_wait_to_be_killed() {
    let cluster = ApiCluster::start().await.expect("an API cluster");
    println!("\n{ANNOUNCEMENT}{}", cluster.folder().display());
    // If the other test dies first, this one must end too.
    tokio::time::sleep(Duration::from_mins(2)).await;
}

/// Lost otherwise: a stranger's process that got the id of a dead component would be killed.
#[test]
fn a_process_that_got_the_id_of_a_recorded_one_is_never_ended() {
    let mut stranger = Command::new("sleep").arg("60").spawn().expect("a process");
    let now = ProcessId::of(i32::try_from(stranger.id()).expect("an id")).expect("it runs");
    let cases = [
        (
            "another start time",
            ProcessId {
                started: now.started - 1,
                ..now.clone()
            },
        ),
        (
            "another boot",
            ProcessId {
                boot: "00000000-0000-0000-0000-000000000000".to_owned(),
                ..now.clone()
            },
        ),
    ];
    for (name, recorded) in cases {
        assert!(!recorded.is_running(), "{name}");
        process::end(&[recorded], Duration::from_secs(1)).expect("nothing to end");
        assert!(now.is_running(), "{name}: the stranger was ended");
    }
    process::end(std::slice::from_ref(&now), Duration::from_secs(5)).expect("it ends");
    assert!(!now.is_running());
    stranger.wait().map(drop).or_else(already_reaped).expect("its end");
}

/// `process::end` takes the zombie of a child away; then there is nothing left to wait for.
fn already_reaped(error: std::io::Error) -> std::io::Result<()> {
    if error.raw_os_error() == Some(nix::errno::Errno::ECHILD as i32) {
        Ok(())
    } else {
        Err(error)
    }
}

/// Lost otherwise: a component that fails would show as a wait that ran out, and say nothing of why.
#[test]
fn a_component_that_ends_is_an_error_with_the_end_of_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let processes = Processes::in_folder(folder.path());
    let mut command = Command::new("sh");
    command.args(["-c", "echo the disk is on fire >&2; exit 3"]);
    let id = processes.start("broken", command).expect("it starts");
    let start = Instant::now();
    while id.is_running() && start.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    let error = processes.all_running().expect_err("it has ended");
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
}

/// Lost otherwise: a wait that ran out would not say how far it got.
#[tokio::test]
async fn a_wait_that_runs_out_says_what_it_saw_last() {
    let mut looks = 0;
    let waited = eventually(Duration::from_millis(500), "the third pod", async || {
        looks += 1;
        Err::<(), _>(format!("2 of 3 pods after {looks} looks"))
    });
    let error = waited.await.expect_err("it never comes");
    assert!(
        matches!(&error, HarnessError::Timeout { what, .. } if what == "the third pod"),
        "{error}"
    );
    assert!(error.to_string().contains("2 of 3 pods after"), "{error}");
}

/// Lost otherwise: a wait would hang for ever on a server that accepts and never answers.
#[tokio::test]
async fn a_wait_cuts_off_a_look_that_hangs() {
    let hanging = eventually(Duration::from_millis(200), "an answer", async || {
        std::future::pending::<()>().await;
        Ok::<(), String>(())
    });
    assert!(matches!(hanging.await, Err(HarnessError::Timeout { .. })));
}

/// Lost otherwise: a user without a package would read of a missing file, not of what to install.
#[test]
fn install_packages_names_every_package_an_error_message_may_name() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/install-packages");
    let text = fs::read_to_string(script).expect("the script");
    for package in [
        "buildah",
        "conntrack",
        "containerd",
        "containernetworking-plugins",
        "debootstrap",
        "runc",
    ] {
        assert!(text.lines().any(|line| line.trim().starts_with(package)), "{package}");
    }
}
