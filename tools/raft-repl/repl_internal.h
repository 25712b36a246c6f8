/*
 * repl_internal.h - what the files of the interpreter share; private to tools/raft-repl.
 *
 * Story     repl.c reads lines and dispatches; repl_inputs.c feeds nodes, repl_moves.c moves work
 *           and messages, repl_views.c shows, repl_pure.c calls arithmetic that needs no node.
 *           A handler writes its answer without the closing dot.
 * Owner     repl_open() .. repl_close().
 * Threads   One.
 * Errors    A handler that finds command_failed() returns without having changed anything.
 */
#ifndef RAFT_REPL_REPL_INTERNAL_H
#define RAFT_REPL_REPL_INTERNAL_H

#include "tools/raft-repl/cluster.h"
#include "tools/raft-repl/command.h"
#include "tools/raft-repl/repl.h"

struct repl {
    struct cluster cluster;
    struct raft_config changer; /* what the changer command works on */
    FILE *out;
    bool quiet; /* do not write what nodes and messages do */
};

void repl_say(struct repl *repl, const char *text);
/* "ok" or "error: NAME". */
void repl_say_result(struct repl *repl, int error);

/* The node that word `at` names; fails the command when there is none. */
struct node *repl_node(struct repl *repl, struct command *command, uint32_t at);
/* The same, and it must run. */
struct node *repl_node_up(struct repl *repl, struct command *command, uint32_t at);
/* The nodes named from word `at` on; all when none is. */
struct command_list repl_nodes(struct repl *repl, struct command *command, uint32_t at);

typedef void repl_handler(struct repl *repl, struct command *command);

/* repl_inputs.c */
repl_handler repl_add_nodes, repl_campaign, repl_propose, repl_propose_change, repl_tick,
    repl_set_timeout, repl_transfer, repl_read_index, repl_forget_leader, repl_report_unreachable,
    repl_report_snapshot, repl_send_snapshot, repl_compact, repl_crash, repl_restart;
/* repl_moves.c */
repl_handler repl_process_ready, repl_process_append, repl_process_apply, repl_deliver,
    repl_stabilize;
/* repl_views.c */
repl_handler repl_state, repl_status, repl_log, repl_config, repl_reads, repl_trace;
/* repl_pure.c */
repl_handler repl_quorum_commit, repl_quorum_vote, repl_changer;

#endif
