#!/bin/sh
# Walks every route of the paper's figure 4.2, in order, with curl alone,
# against MLAAS_URL with MLAAS_TOKEN: what it answers, and how. Python reads
# the JSON and nothing else. The first thing that is wrong ends it.
set -eu
: "${MLAAS_URL:?is the address of a platform}" "${MLAAS_TOKEN:?is its token}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name=routes-$$

# fail says what is wrong, with the answer that it saw.
fail() {
  echo "FAIL $*" >&2
  [ ! -s "$work/body" ] || { echo "answer:" >&2; head -c 2000 "$work/body" >&2; echo >&2; }
  exit 1
}

# call STATUS METHOD PATH [CURL ARGS] makes a call and keeps its answer.
call() {
  want=$1 method=$2 path=$3
  shift 3
  got=$(curl -sS -o "$work/body" -D "$work/head" -w '%{http_code}' -X "$method" \
    -H "Authorization: Bearer $MLAAS_TOKEN" "$@" "$MLAAS_URL$path") || fail "$method $path: curl cannot"
  [ "$got" = "$want" ] || fail "$method $path answers $got, want $want"
  echo "ok   $method $path $got"
}

json() { # json METHOD... as call, with a JSON body as the fourth word
  want=$1 method=$2 path=$3 body=$4
  shift 4
  call "$want" "$method" "$path" -H 'Content-Type: application/json' --data "$body" "$@"
}

# is EXPRESSION holds of the last answer, which is `a`.
is() {
  python3 -c 'import json, sys
a = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' "$work/body" "$1" || fail "the answer is not as it should be: $1"
}

# get EXPRESSION prints a part of the last answer.
get() {
  python3 -c 'import json, sys
a = json.load(open(sys.argv[1]))
print(eval(sys.argv[2]))' "$work/body" "$1" || fail "the answer has no $1"
}

header() { tr -d '\r' < "$work/head" | awk -v k="$1" 'tolower($1) == tolower(k) ":" { sub(/^[^ ]+ /, ""); print; exit }'; }

# Who is asking?
got=$(curl -sS -o "$work/body" -w '%{http_code}' "$MLAAS_URL/api/job")
[ "$got" = 401 ] || fail "GET /api/job without a token answers $got, want 401"
is 'a["status"] == 401 and a["error_code"] == "unauthorized" and a["message"]'
echo "ok   without a token 401"

# --- /api/job
call 200 GET /api/job
is 'isinstance(a["items"], list)'
call 200 GET '/api/job?limit=1'
is 'len(a["items"]) <= 1'
call 404 GET /api/job/00000000000000000000000000
is 'a["error_code"] == "not_found" and a["detail"]'

json 201 POST /api/job "{\"name\": \"$name\", \"execution\": {\"command\": [\"python\", \"main.py\"], \"parameters\": {\"steps\": 5}}, \"roles\": {\"worker\": {\"replicas\": {\"min\": 1, \"max\": 1}, \"cpu\": \"300m\", \"memory\": \"256Mi\"}}}" -H "Idempotency-Key: $name"
is "a['name'] == '$name'"
is 'a["roles"]["worker"]["cpu"] == "300m" and a["roles"]["worker"]["memory"] == "256Mi"'
job=$(get 'a["id"]')
json 201 POST /api/job "{\"name\": \"$name\", \"execution\": {\"command\": [\"python\", \"main.py\"], \"parameters\": {\"steps\": 5}}, \"roles\": {\"worker\": {\"replicas\": {\"min\": 1, \"max\": 1}, \"cpu\": \"300m\", \"memory\": \"256Mi\"}}}" -H "Idempotency-Key: $name"
is "a['id'] == '$job'"
json 422 POST /api/job "{\"name\": \"$name-other\"}" -H "Idempotency-Key: $name"
json 409 POST /api/job "{\"name\": \"$name\"}"
is 'a["error_code"] == "conflict"'
json 400 POST /api/job '{"name": '
json 422 POST /api/job '{"name": "x", "rolse": {}}'
is '"rolse" in a["detail"]'

call 200 GET "/api/job/$job"
is "a['id'] == '$job' and a['revision'] >= 1"
tag=$(header ETag)
[ -n "$tag" ] || fail "GET /api/job/{id} has no ETag"
json 200 PATCH "/api/job/$job" '{"labels": {"made-by": "routes"}}' -H "If-Match: $tag"
is 'a["labels"]["made-by"] == "routes" and a["roles"]["worker"]["cpu"] == "300m"'
json 412 PATCH "/api/job/$job" '{"labels": {"made-by": "late"}}' -H "If-Match: $tag"
is 'a["error_code"] == "stale"'

# --- DELETE, on a job of its own
json 201 POST /api/job "{\"name\": \"$name-gone\"}"
gone=$(get 'a["id"]')
call 204 DELETE "/api/job/$gone"
call 200 GET /api/job
is "'$gone' not in [j['id'] for j in a['items']]"

# --- /api/job/{id}/code
cat > "$work/main.py" <<'PY'
import os, sys, time
import mlaas
steps = int(os.environ["MLAAS_PARAM_STEPS"])
for step in range(1, steps + 1):
    print("step", step, flush=True)
    mlaas.log({"loss": 1 / step}, step=step)
print("arguments", *sys.argv[1:], flush=True)
if steps > 1000:
    time.sleep(600)
PY
program=$(python3 -c 'import json, sys; print(json.dumps({"files": {"main.py": open(sys.argv[1]).read()}}))' "$work/main.py")
json 201 POST "/api/job/$job/code" "$program"
v1=$(get 'a["id"]')
[ "$v1" = v1 ] || fail "the first version is $v1, want v1"
call 200 GET "/api/job/$job/code"
is '[v["id"] for v in a["items"]] == ["v1"]'
call 200 GET "/api/job/$job/code/$v1"
is 'a["id"] == "v1" and [f["path"] for f in a["files"]] == ["main.py"]'
json 201 PUT "/api/job/$job/code/$v1" "$(printf %s "$program" | sed 's/import os/import json, os/')"
is 'a["id"] == "v2"'
call 200 GET "/api/job/$job/code/v2"
call 404 GET "/api/job/$job/code/v9"

# --- run
json 202 POST "/api/job/$job/run" '{"parameters": {"steps": 7}}'
is 'a["id"] and a["status"]'
run=$(get 'a["id"]')
call 200 GET "/api/job/$job/run"
is "[r['id'] for r in a['items']] == ['$run']"
call 200 GET "/api/run/$run"
is "a['id'] == '$run' and a['jobName'] == '$name' and a['number'] == 1"

# Its log, followed to its end: that is when the run has ended.
call 200 GET "/api/run/$run/log?follow=true" -N --max-time 170
python3 - "$work/body" <<'PY' || fail "the log is not as it should be"
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1]) if l.strip()]
mine = [l["line"] for l in lines if l["stream"] == "stdout"]
assert [m for m in mine if m.startswith("step")] == ["step %d" % i for i in range(1, 8)], mine
assert any("--steps 7" in m for m in mine), mine
assert [l["cursor"] for l in lines] == list(range(1, len(lines) + 1)), "cursors are not dense"
assert all(l["replica"] == "worker-0" and l["attempt"] == 1 and l["time"].endswith("Z") for l in lines)
PY

# --- node, and what the paper's five garbled routes are
call 200 GET "/api/job/$job/node"
is 'len(a["items"]) == 1'
is '{"id", "role", "index", "attempt", "cluster", "status", "reason"} <= set(a["items"][0])'
is 'a["items"][0]["role"] == "worker" and a["items"][0]["index"] == 0'
node=$(get 'a["items"][0]["id"]')
call 200 GET "/api/job/$job/node?run=$run"
call 200 GET "/api/job/$job/node/$node"
is "a['id'] == '$node'"
call 404 GET "/api/job/$job/node/worker-99"
call 200 GET "/api/job/$job/node/$node/status"
is 'a["status"]'
call 200 GET "/api/job/$job/node/$node/log?from=2&limit=2"
python3 - "$work/body" <<'PY' || fail "the log of a node is not as it should be"
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1]) if l.strip()]
assert [l["seq"] for l in lines] == [2, 3], lines
assert all({"seq", "time", "stream", "line"} <= set(l) for l in lines), lines
PY
call 200 GET "/api/job/$job/node/$node/metric?key=loss"
is 'len(a["items"]) == 1 and a["items"][0]["key"] == "loss"'
is '[p[0] for p in a["items"][0]["points"]] == [1, 2, 3, 4, 5, 6, 7]'
is 'a["items"][0]["points"][1][2] == 0.5'
call 200 GET "/api/job/$job/node/$node/metric?key=loss&buckets=3"
is '0 < len(a["items"][0]["points"]) <= 3 and len(a["items"][0]["points"][0]) == 5'
call 200 GET "/api/job/$job/node/$node/event"
is 'len(a["items"]) > 0'
call 200 GET "/api/job/$job/node/$node/resource"
is 'isinstance(a, dict)'
call 200 GET "/api/run/$run/metric?key=loss"
is 'a["items"][0]["key"] == "loss"'

# --- the end of it: state and results are on the job
call 200 GET "/api/job/$job"
is 'a["status"]["run"] and a["status"]["reason"] is not None'
is "a['status']['state'] in ('succeeded', 'stopping')"

# --- stop; DELETE while a run lives
json 202 POST "/api/job/$job/run" '{"parameters": {"steps": 2000}}'
second=$(get 'a["id"]')
call 409 DELETE "/api/job/$job"
is "'$name' in a['detail'] or '$second' in a['detail']"
call 202 POST "/api/job/$job/stop"
call 200 GET "/api/run/$second/log?follow=true" -N --max-time 170
call 200 GET "/api/run/$second"
is 'a["status"]["state"] == "stopped"'
call 204 DELETE "/api/job/$job?force"
call 404 GET "/api/job/$job/node"

echo "all of figure 4.2 answers as it should"
