"""Sends the requests that come as JSON on standard input, and prints what came back: [status, body in base64], or null where it failed."""
import base64
import http.client
import json
import ssl
import sys

ask = json.load(sys.stdin)
tls = None
if ask["ca"]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(ask["ca"])


def over_http1(case):
    if tls:
        client = http.client.HTTPSConnection("localhost", ask["port"], timeout=20, context=tls)
    else:
        client = http.client.HTTPConnection("127.0.0.1", ask["port"], timeout=20)
    try:
        client.request(case["method"], case["target"], case["body"])
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def over_http2(case):
    import httpx

    base = f"https://localhost:{ask['port']}" if tls else f"http://127.0.0.1:{ask['port']}"
    with httpx.Client(http1=False, http2=True, verify=tls or True, timeout=20, trust_env=False) as client:
        answer = client.request(case["method"], base + case["target"], content=case["body"])
        assert answer.http_version == "HTTP/2", answer.http_version
        return answer.status_code, answer.content


results = []
for case in ask["cases"]:
    case["body"] = base64.b64decode(case["body"]) or None
    try:
        status, body = (over_http2 if ask["http2"] else over_http1)(case)
        results.append([status, base64.b64encode(body).decode()])
    except ImportError:
        raise
    except Exception as error:
        print(f"{case['method']} {case['target']}: {error!r}", file=sys.stderr)
        results.append(None)
json.dump(results, sys.stdout)
