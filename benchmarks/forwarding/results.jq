# What `vrouter bench --json` writes, as benchmarks/RESULTS.md.
def places($n): . as $value | if $value == null then "-" else
    ($value * pow(10; $n) | round) as $units
    | if $n == 0 then "\($units)" else
        ("000\($units % pow(10; $n))"[-$n:]) as $fraction | "\(($units / pow(10; $n)) | floor).\($fraction)" end end;
def rules: if . == "none" then "no masquerading" else "the article's rules" end;
.machine as $machine
| "# Forwarding: results",
  "",
  "![throughput, latency and TCP](forwarding/results.svg)",
  "",
  "- command: `\($command)`; what each number means is in [README.md](README.md)",
  "- machine: \($machine.cpu), \($machine.cores) cores, \($machine.memoryBytes / 1073741824 | round) GiB",
  "- kernel: \($machine.kernel); VLAN interfaces: \($machine.driver); vrouter \($machine.vrouter); \($machine.date)",
  "- the generator, and what the kernel does with its frames at once: core \($machine.generatorCore)",
  (if ($machine.generator | map(.coreShare) | min) < 0.95 then
    "- **other programs ran**: the generator got \($machine.generator | map(.coreShare) | min * 100 | places(0)) % of its core, and all rates are lower for it"
   else empty end),
  "",
  "| the generator alone: frame | Mpps | ns a frame |",
  "|---|---|---|",
  ($machine.generator[] | "| \(.frameBytes) | \(.maxMpps | places(2)) | \(.cpuNanosecondsPerPacket | places(0)) |"),
  (.results | group_by(.rules == "article")[] | "",
    "| \(.[0].rules | rules): datapath | frame | flows | routes | Mpps at most | without loss | CPU ns a frame | latency in µs: median | 99 % | 99.9 % |",
    "|---|---|---|---|---|---|---|---|---|---|",
    (.[] | "| \(.datapath)\(if (.fastPathShare // 1) < 0.99 then " (\(.fastPathShare * 100 | places(0)) % of the frames)" else "" end) | \(.frameBytes) | \(.flows) | \(.routes) | \(.maxMpps | places(3)) | \(.lossFreeMpps | places(3)) | \(.cpuNanosecondsPerPacket | places(0)) | \(.latencyMicroseconds.p50 | places(1)) | \(.latencyMicroseconds.p99 | places(1)) | \(.latencyMicroseconds.p999 | places(1)) |")),
  (if (.tcp | length) > 0 then "",
    "| TCP: datapath | rules | connections | Gbit/s |",
    "|---|---|---|---|",
    (.tcp[] | "| \(.datapath) | \(.rules | rules) | \(.connections) | \(.gbitPerSecond | places(2)) |")
   else empty end)
