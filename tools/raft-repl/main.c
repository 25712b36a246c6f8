/* raft-repl: a group of consensus cores driven by commands on stdin, answers on stdout. */
#include "tools/raft-repl/repl.h"

#include <string.h>

int main(int argc, char **argv)
{
    bool echo = argc > 1 && strcmp(argv[1], "--echo") == 0;
    if (argc > 1 && !echo) {
        fprintf(stderr, "usage: raft-repl [--echo] < transcript\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct repl *repl = repl_open();
    repl_run(repl, stdin, stdout, echo);
    repl_close(repl);
    return 0;
}
