// Another structure than the bpf_insn of linux/bpf.h, which may be imported into the same program.
#define bpf_insn pcap_bpf_insn
#include <pcap/pcap.h>
#undef bpf_insn
#include <stdio.h>
#include <sys/stat.h>
