#include <pcap/pcap.h>
#include <stdio.h>
#include <sys/stat.h>
