# Reads the event stream of one Swift Testing run (a JSON object a line) and prints one line a test:
#   passed|failed|skipped <tab> name <tab> first issue, or reason of the skip
# A test that began and never ended was running when the process died: it failed.
# usage: jq -nrR -f events.jq run.jsonl   (raw input: the last line of a process that died may be cut off)

def name: sub("/[^/]*:[0-9]+:[0-9]+$"; "");
def reason: (._comments // []) | join("; ");
def issue:
  (._testCase.displayName // "" | if . == "" then "" else "[\(.)] " end)
  + ([.messages[]? | select(.symbol != "default") | .text] | join(": "))
  + (.issue.sourceLocation // {} | if .fileID then " (\(.fileID):\(.line))" else "" end);
def field: gsub("[\\t\\n\\r]+"; " ");

reduce (inputs | fromjson? // empty) as $line ({functions: {}, outside: []};
  $line.payload as $p
  | ($p.testID // "") as $id
  | if $line.kind == "test" then
      if $p.kind == "function" then .functions[$p.id] = {} else . end
    elif $p.kind == "issueRecorded" then
      # Known issues and warnings do not fail a test.
      if any($p.messages[]?; .symbol == "fail") | not then .
      elif .functions[$id] then .functions[$id].issues += [$p | issue]
      else .outside += [$p | issue] end
    elif .functions[$id] == null then .
    elif $p.kind == "testStarted" then .functions[$id].started = true
    elif $p.kind == "testSkipped" or $p.kind == "testCancelled" then .functions[$id].skipped = ($p | reason)
    elif $p.kind == "testEnded" then .functions[$id].ended = true
    else . end)
| (.outside[] | ["failed", "(outside any test)", .]),
  (.functions | to_entries[]
   | (.key | name) as $name
   | .value
   | if .issues then ["failed", $name, .issues[0]]
     elif .skipped then ["skipped", $name, (.skipped | if . == "" then "no reason given" else . end)]
     elif .ended then ["passed", $name, ""]
     elif .started then ["failed", $name, "did not end"]
     else ["failed", $name, "did not run"] end)
| map(field) | @tsv
