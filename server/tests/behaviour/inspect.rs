//! What the server says that it saw.

use echo_server::{CatchAll, Config};

use crate::harness::{Client, Echo, Program, config, program};

/// Sends a request with a body, and reads its response.
fn post(client: &mut Client, target: &str, content_type: &str, body: &[u8]) -> crate::harness::Response {
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: a\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(&[head.as_bytes(), body].concat());
    client.response()
}

#[test]
fn a_request_is_shown_with_all_that_came() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(
        b"PUT /anything/x%20y?a=1&b=%C3%BC&a=2 HTTP/1.1\r\nHost: example.test:81\r\nX-Twice: 1\r\nX-Other: o\r\nx-twice: 2\r\n\
          X-Latin: caf\xe9\r\ncontent-length: 5\r\n\r\nhello",
    );
    let response = client.response();
    assert_eq!((response.status, response.header("content-type")), (200, "application/json"));
    let seen = response.json();
    for (field, expected) in [
        ("method", "PUT"),
        ("url", "http://example.test:81/anything/x%20y?a=1&b=%C3%BC&a=2"),
        ("path", "/anything/x%20y?a=1&b=%C3%BC&a=2"),
        ("host", "example.test:81"),
        ("proto", "HTTP/1.1"),
        ("origin", "127.0.0.1"),
        ("data", "hello"),
        ("pod", ""),
        ("bodySha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
    ] {
        assert_eq!(seen[field], expected, "{field}");
    }
    assert_eq!(seen["args"], serde_json::json!({"a": ["1", "2"], "b": ["ü"]}));
    assert_eq!(seen["headers"]["x-twice"], serde_json::json!(["1", "2"]));
    assert_eq!(seen["headers"]["x-latin"][0], "café", "ISO-8859-1, and nothing is lost");
    assert_eq!((&seen["tls"], &seen["json"], &seen["bodyBytes"]), (&().into(), &().into(), &5.into()));
    let raw = seen["rawHeaders"].as_array().unwrap();
    let names: Vec<_> = raw.iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert_eq!(names, ["host", "x-twice", "x-twice", "x-other", "x-latin", "content-length"]);
    server.stop();
}

#[test]
fn bodies_are_shown_by_their_type() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    let seen = post(client, "/post", "application/x-www-form-urlencoded", b"a=1&a=2+3").json();
    assert_eq!(seen["form"], serde_json::json!({"a": ["1", "2 3"]}));

    let multipart = b"--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x\r\ncontent-disposition: form-data; \
        name=\"f\"; filename=\"f\"\r\n\r\n\xff\r\n--x--\r\n";
    let seen = post(client, "/post", "multipart/form-data; boundary=x", multipart).json();
    assert_eq!(seen["form"], serde_json::json!({"a": ["1"]}));
    assert_eq!(seen["files"], serde_json::json!({"f": ["data:application/octet-stream;base64,/w=="]}));

    let seen = post(client, "/post", "application/json", b"{\"a\":[1]}").json();
    assert_eq!(seen["json"]["a"][0], 1);
    let seen = post(client, "/post", "application/json", b"{").json();
    assert!(seen["json"].is_null() && seen["bodyError"].as_str().unwrap().starts_with("json:"), "{seen}");

    let seen = post(client, "/post", "image/png", b"\xff\x00").json();
    assert_eq!(seen["data"], "data:image/png;base64,/wA=");
    server.stop();
}

#[test]
fn what_could_begin_a_tag_is_escaped_because_a_client_chooses_the_type() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    let response = client.ask("GET /anything?x=%3Cscript%3E&header=content-type:text/html");
    assert_eq!(response.header("content-type"), "text/html");
    assert!(!response.text().contains('<'), "{}", response.text());
    assert_eq!(response.json()["args"]["x"][0], "<script>");
    server.stop();
}

#[test]
fn a_body_that_is_too_large_to_be_shown_is_refused_before_it_is_sent() {
    let server = Echo::start(Config { buffer_max: 10, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /anything HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n");
    let refused = client.response();
    assert_eq!((refused.status, refused.header("connection")), (413, "close"));
    let error = refused.json();
    assert_eq!((&error["status_code"], &error["error"]), (&413.into(), &"Payload Too Large".into()));
    assert!(
        error["detail"].as_str().unwrap().contains("larger than 10")
            && refused.text().contains("--buffer-max")
    );
    client.close_write();
    client.expect_close();

    let mut client = Client::connect(server.addr);
    client.send(b"POST /anything HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n");
    assert_eq!(client.response().status, 413, "one that does not say how large it is");

    let mut client = Client::connect(server.addr);
    assert_eq!(post(&mut client, "/anything", "text/plain", b"0123456789").json()["bodyBytes"], 10);
    server.stop();
}

#[test]
fn each_method_has_its_path_and_405_names_those_of_a_path() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    for (method, path) in
        [("GET", "/get"), ("POST", "/post"), ("PUT", "/put"), ("PATCH", "/patch"), ("DELETE", "/delete")]
    {
        assert_eq!(client.ask(&format!("{method} {path}")).json()["method"], method);
        let other = if method == "PUT" { "POST" } else { "PUT" };
        let refused = client.ask(&format!("{other} {path}"));
        let allow =
            if method == "GET" { "GET, HEAD, OPTIONS".to_owned() } else { format!("{method}, OPTIONS") };
        assert_eq!((refused.status, refused.header("allow")), (405, allow.as_str()), "{path}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(path));
        let options = client.ask(&format!("OPTIONS {path}"));
        assert_eq!((options.status, options.header("allow")), (204, allow.as_str()));
    }
    let root = client.ask("DELETE /");
    assert_eq!((root.status, root.header("allow")), (405, "GET, HEAD, OPTIONS, POST, PUT, PATCH"));
    let server_wide = Client::connect(server.addr).ask("OPTIONS *");
    assert!(server_wide.status == 204 && server_wide.header("allow").contains("DELETE"), "{server_wide:?}");
    server.stop();
}

#[test]
fn a_path_without_endpoint_answers_as_the_setting_says() {
    let server = Echo::start(config());
    let seen = Client::connect(server.addr).ask("GET /of/my/service?x=1").json();
    assert_eq!(seen["path"], "/of/my/service?x=1", "inspect is the default");
    server.stop();

    let server = Echo::start(Config { catch_all: CatchAll::Echo, ..config() });
    assert_eq!(post(&mut Client::connect(server.addr), "/of/my/service", "a/b", b"hi").body, b"hi");
    server.stop();

    let server = Echo::start(Config { catch_all: CatchAll::NotFound, ..config() });
    let client = &mut Client::connect(server.addr);
    let refused = post(client, "/of/my/service", "a/b", b"hi");
    assert_eq!((refused.status, refused.header("connection")), (404, ""), "a small body is read");
    assert_eq!(refused.json()["status_code"], 404);
    assert_eq!(client.ask("OPTIONS /of/my/service").status, 404);
    server.stop();
}

#[test]
fn facts_about_client_and_server_have_their_paths() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    assert_eq!(
        client.ask("GET /headers\r\nx-a: 1\r\nx-a: 2").json()["headers"]["x-a"],
        serde_json::json!(["1", "2"])
    );
    assert_eq!(client.ask("GET /ip").json()["origin"], "127.0.0.1");
    assert_eq!(client.ask("GET /ip?format=text").text(), "127.0.0.1\n");
    assert_eq!(client.ask("GET /ip?format=xml").status, 400);
    assert_eq!(client.ask("GET /user-agent\r\nuser-agent: me/1").json()["user-agent"], "me/1");
    assert!(client.ask("GET /user-agent").json()["user-agent"].is_null());
    let hostname = client.ask("GET /hostname").json();
    assert_eq!(hostname["hostname"], rustix::system::uname().nodename().to_str().unwrap());
    assert_eq!(client.ask("GET /version").json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (client.ask("GET /bench").text(), client.ask("GET /pipeline").text()),
        ("1".into(), "ok".into())
    );
    let bad = client.ask("GET /anything?x=%zz");
    assert!(bad.status == 400 && bad.text().contains("%zz"), "{bad:?}");
    server.stop();
}

#[test]
fn of_the_environment_four_variables_are_shown_and_no_other() {
    let mut command = program();
    command.env("POD_NAME", "pod-7").env("SECRET_OF_MINE", "hush").env("NAMESPACE", "default");
    let program = Program::spawn(&mut command);
    let response = Client::connect(program.addr).ask("GET /anything");
    let seen = response.json();
    assert_eq!(
        (&seen["pod"], &seen["namespace"], &seen["service"]),
        (&"pod-7".into(), &"default".into(), &"".into())
    );
    assert!(!response.text().contains("hush"));
    program.stop();
}

#[test]
fn health_on_the_data_port_follows_the_phase() {
    let mut server = Echo::start(Config { lame_duck: crate::harness::PATIENCE, ..config() });
    let client = &mut Client::connect(server.addr);
    for path in ["/livez", "/healthz", "/readyz", "/health"] {
        assert_eq!(client.ask(&format!("GET {path}")).status, 200, "{path}");
        assert_eq!(client.ask(&format!("POST {path}")).status, 405, "{path}");
        assert_eq!(client.ask(&format!("GET {path}?status=500")).status, 200, "a probe has no controls");
    }
    server.begin_drain();
    server.await_metric("echo_phase", "lame_duck", 1);
    for (path, status) in [("/livez", 200), ("/healthz", 200), ("/readyz", 503), ("/health", 503)] {
        let answer = Client::connect(server.addr).ask(&format!("GET {path}"));
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.text().contains("lame_duck"), status == 503);
    }
}

#[test]
fn pages_of_other_origins_may_call_only_where_they_are_let_in() {
    let preflight = "OPTIONS /post\r\norigin: http://b.test\r\naccess-control-request-method: POST\r\naccess-control-request-headers: x-y";
    let server = Echo::start(config());
    let refused = Client::connect(server.addr).ask(preflight);
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (204, ""));
    server.stop();

    let server = Echo::start(Config { cors: true, ..config() });
    let client = &mut Client::connect(server.addr);
    let allowed = client.ask(preflight);
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (204, "*"));
    assert_eq!(allowed.header("access-control-allow-methods"), "POST");
    assert_eq!(allowed.header("access-control-allow-headers"), "x-y");
    for (request, status) in [("GET /echo", 200), ("GET /post", 405)] {
        let response = client.ask(&format!("{request}\r\norigin: http://b.test"));
        assert_eq!(
            (response.status, response.header("access-control-allow-origin")),
            (status, "*"),
            "{request}"
        );
    }
    server.stop();
}

#[test]
fn every_response_names_its_instance_where_that_is_asked_for() {
    let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    for (server_header, expected) in [(true, name.as_str()), (false, "")] {
        let server = Echo::start(Config { server_header, body_max: 3, ..config() });
        let client = &mut Client::connect(server.addr);
        assert_eq!(client.echo(b"hi").header("x-echo-server"), expected);
        assert_eq!(client.ask("GET /get").header("x-echo-server"), expected);
        let refused = client.echo(b"hello");
        assert_eq!(
            (refused.status, refused.header("x-echo-server")),
            (413, expected),
            "also what layers refuse"
        );
        server.stop();
    }
}

#[test]
fn the_response_to_head_has_the_length_of_the_body_and_no_body() {
    let server = Echo::start(config());
    for target in [
        "/",
        "/bench",
        "/pipeline",
        "/livez",
        "/get",
        "/anything/x",
        "/status/500",
        "/bytes/1000",
        "/range/1000",
        "/openapi.json",
        "/version",
        "/own",
    ] {
        let get = Client::connect(server.addr).ask(&format!("GET {target}"));
        let mut client = Client::connect(server.addr);
        client.send(format!("HEAD {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes());
        let head = client.head_of_large_response();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if !["/get", "/anything/x", "/own"].contains(&target) {
            assert_eq!(length, get.header("content-length"), "{target}");
        }
        assert_ne!(length, "0", "{target}");
        client.expect_close();
    }
    server.stop();
}
