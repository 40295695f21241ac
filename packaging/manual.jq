# Writes the manual page, in man(7)'s language, from what the program says of itself:
#   vrouter --experimental-dump-help | jq -r -f packaging/manual.jq

# Text: no escape sequences, and no line that looks like a request. A paragraph a blank line.
def text: gsub("\\\\"; "\\e") | gsub("-"; "\\-") | gsub("(?<start>^|\n)(?<c>[.'])"; "\(.start)\\&\(.c)") | gsub("\n\n+"; "\n.PP\n");
def spelled: if .kind == "short" or .kind == "longWithSingleDash" then "-\(.name)" else "--\(.name)" end;
def value: "\\fI\(.valueName | text)\\fR";
def shown: select(.shouldDisplay);

def usage:
  if .kind == "positional" then value
  else "\\fB\(.preferredName | spelled | text)\\fR" + (if .kind == "option" then " " + value else "" end) end;
# Every command has these two; they are listed once.
def common: .kind == "flag" and (.valueName == "help" or .valueName == "version");
def synopsis:
  [.arguments[]? | shown | select(common | not)
   | (if .isOptional then "[\(usage)]" else usage end) + (if .isRepeating then "..." else "" end)] | join(" ");

def entry:
  ".TP\n"
  + (if .kind == "positional" then value
     else ([.names[] | "\\fB\(spelled | text)\\fR"] | join(", ")) + (if .kind == "option" then " " + value else "" end) end)
  + "\n"
  + ([.abstract // "", .discussion // "",
      (if .allValues then "One of: \(.allValues | join(", "))." else "" end),
      (if .defaultValue then "Default: \(.defaultValue)." else "" end)]
     | map(select(. != "") | text) | join("\n.br\n"));
def entries: .arguments[]? | shown | select(common | not) | entry;
def common_entries: .arguments[]? | shown | select(common) | entry;

# Every command below this one, its full name in front.
def commands($path):
  .subcommands[]? | shown | select(.commandName != "help")
  | ($path + [.commandName]) as $name
  | (. + {full: ($name | join(" "))}), commands($name);

.command
| (.commandName | ascii_upcase) as $upper
| ".\\\" Written by packaging/manual.jq from the program's own help: do not edit.",
  ".TH \($upper) 8",
  ".SH NAME",
  "\(.commandName) \\- \(.abstract // "" | rtrimstr(".") | text)",
  ".SH SYNOPSIS",
  (if ([commands([])] | length) == 0 then "\\fB\(.commandName)\\fR \(synopsis)"
   else (.commandName as $me | commands([]) | select(.subcommands | not) | "\\fB\($me) \(.full)\\fR \(synopsis)\n.br") end),
  (if .discussion then ".SH DESCRIPTION", (.discussion | text) else empty end),
  ([commands([])] | if length > 0 then ".SH COMMANDS" else empty end),
  (.commandName as $me | commands([])
   | ".SS \"\($me) \(.full)\"", (.abstract // "" | text),
     (if .discussion then ".PP", (.discussion | text) else empty end), entries),
  ".SH OPTIONS",
  entries,
  common_entries
