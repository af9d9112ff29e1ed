//! Without one experiment run from end to end, the first to find the harness broken would be whoever needs a figure.

#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::{fs, path::PathBuf, process::Command};

fn study(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_study")).args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn results(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("study-test-{}-{name}", std::process::id()))
}

#[test]
fn the_list_names_every_experiment() {
    let (ok, said) = study(&["list"]);
    assert!(ok, "{said}");
    for name in ["overload", "slow-clients", "attacks", "restart"] {
        assert!(said.lines().any(|line| line.starts_with(name)), "{said}");
    }
    let (ok, said) = study(&["nothing"]);
    assert!(!ok && said.contains("study list"), "{said}");
}

#[test]
fn a_quick_experiment_runs_from_end_to_end_and_leaves_its_files() {
    let dir = results("slow");
    let path = dir.to_str().unwrap();
    let (ok, said) =
        study(&["slow-clients", "--quick", "--only", "silent", "--clients", "50", "--results", path]);
    assert!(ok, "{said}");
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.join("slow-clients.json")).unwrap()).unwrap();
    let rows = json["report"]["tables"][0]["rows"].as_array().unwrap();
    let silent = rows.iter().find(|row| row[0] == "silent").unwrap();
    assert_eq!(silent[1], "50", "{said}");
    assert_eq!(json["quick"], true);
    // Deadlines of 1 s have cut all of them.
    let cut = &json["report"]["tables"][1]["rows"][0];
    assert_eq!((&cut[0], &cut[3]), (&"silent".into(), &"0".into()), "{said}");
    let text = fs::read_to_string(dir.join("slow-clients.md")).unwrap();
    assert!(text.contains("figures are not evidence") && text.contains("| silent | 50 |"), "{text}");
    let home = std::env::temp_dir();
    assert!(!text.contains(home.to_str().unwrap()), "no path of the machine is written down: {text}");
    fs::remove_dir_all(dir).unwrap();
}
