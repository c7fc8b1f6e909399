//! Stand-ins for the images of nginx, Valkey, Postgres and Prometheus: Debian's packages at the paths, and with the
//! users, that the upstream images have. The four share one layer and differ in a small one on top.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    Bundle,
    archive::{Image, Layer, PATH, write_archive, write_layer},
    cached, debian,
};
use crate::{HarnessError, files::ContentHash};

/// What makes the common system look like one upstream image.
struct StandIn {
    name: &'static str,
    /// The user of the server: name, and the number of user and group.
    user: (&'static str, u64),
    /// Links at upstream's paths: path, target.
    links: &'static [(&'static str, &'static str)],
    /// Folders that belong to the user: path, mode.
    folders: &'static [(&'static str, u32)],
    /// The command that runs when a manifest names none.
    command: &'static [&'static str],
    /// The user that runs when a manifest names none.
    runs_as: &'static str,
    /// The environment besides `PATH`.
    environment: &'static [&'static str],
}

const STAND_INS: [StandIn; 4] = [
    StandIn {
        name: "docker.io/library/nginx:1.30",
        user: ("nginx", 101),
        links: &[],
        folders: &[("var/cache/nginx", 0o755), ("var/log/nginx", 0o755)],
        command: &["nginx", "-g", "daemon off;"],
        runs_as: "",
        environment: &[],
    },
    StandIn {
        name: "docker.io/valkey/valkey:9",
        user: ("valkey", 999),
        links: &[
            ("usr/local/bin/valkey-server", "../../bin/valkey-server"),
            ("usr/local/bin/valkey-cli", "../../bin/valkey-cli"),
        ],
        folders: &[("data", 0o755)],
        command: &["valkey-server"],
        runs_as: "",
        environment: &[],
    },
    StandIn {
        name: "docker.io/library/postgres:18",
        user: ("postgres", 999),
        links: &[],
        folders: &[("var/lib/postgresql", 0o1777), ("run/postgresql", 0o3777)],
        command: &["postgres"],
        runs_as: "",
        environment: &["PG_MAJOR=18", "PGDATA=/var/lib/postgresql/18/docker"],
    },
    StandIn {
        name: "docker.io/prom/prometheus:v3.5.0",
        user: ("nobody", 65534),
        links: &[],
        folders: &[("prometheus", 0o777)],
        command: &[
            "/bin/prometheus",
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
        ],
        runs_as: "nobody",
        environment: &[],
    },
];

/// The four stand-ins, in one archive.
pub(super) fn stand_ins() -> Result<Bundle, HarnessError> {
    let base = debian::servers()?;
    // What is written on top of the base is all in this file and the one that writes archives.
    let hash = ContentHash::default()
        .with("base", &base.hash)
        .with("stand-ins", include_str!("upstream.rs"))
        .with("archive", include_str!("archive.rs"))
        .finish();
    let names = STAND_INS.iter().map(|stand_in| stand_in.name.to_owned()).collect();
    cached("stand-ins", hash, names, |target| {
        let mut images = Vec::new();
        for (number, stand_in) in STAND_INS.iter().enumerate() {
            let layer = target.with_extension(format!("layer-{number}"));
            write_layer(&layer, |layer| fill(layer, stand_in))?;
            images.push(image(stand_in, &base.layer, &layer));
        }
        let written = write_archive(target, &images);
        for layer in images.iter().filter_map(|image| image.layers.last()) {
            fs::remove_file(layer).map_err(HarnessError::io("remove", layer))?;
        }
        written
    })
}

fn fill(layer: &mut Layer, stand_in: &StandIn) -> Result<(), HarnessError> {
    let (user, number) = stand_in.user;
    let (own_user, own_group) = if user == "nobody" {
        (String::new(), String::new())
    } else {
        (
            format!("{user}:x:{number}:{number}:{user}:/nonexistent:/bin/false\n"),
            format!("{user}:x:{number}:\n"),
        )
    };
    let users = format!("root:x:0:0:root:/root:/bin/bash\n{own_user}nobody:x:65534:65534::/nonexistent:/bin/false\n");
    let groups = format!("root:x:0:\n{own_group}nogroup:x:65534:\n");
    layer.file("etc/passwd", users.as_bytes(), 0, 0o644)?;
    layer.file("etc/group", groups.as_bytes(), 0, 0o644)?;
    for (path, mode) in stand_in.folders {
        layer.folder(path, number, *mode)?;
    }
    stand_in
        .links
        .iter()
        .try_for_each(|(path, target)| layer.link(path, target))
}

fn image(stand_in: &StandIn, base: &Path, layer: &Path) -> Image {
    let environment: Vec<&str> = [PATH].iter().chain(stand_in.environment).copied().collect();
    let config: Value = json!({"Cmd": stand_in.command, "User": stand_in.runs_as, "Env": environment});
    Image {
        name: stand_in.name.to_owned(),
        layers: vec![base.to_path_buf(), layer.to_path_buf()],
        config,
    }
}
