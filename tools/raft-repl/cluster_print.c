/* Messages, entries and configurations as text. */
#include "tools/raft-repl/cluster.h"

#include <inttypes.h>

static void print_ids(FILE *out, const char *name, const struct raft_id_set *set)
{
    fprintf(out, "%s=(", name);
    for (uint32_t i = 0; i < set->count; i++)
        fprintf(out, "%s%" PRIu64, i > 0 ? " " : "", set->ids[i]);
    fputc(')', out);
}

void cluster_print_config(FILE *out, const struct raft_config *config)
{
    print_ids(out, "voters", &config->voters);
    if (config->outgoing.count > 0)
        print_ids(out, " outgoing", &config->outgoing);
    if (config->learners.count > 0)
        print_ids(out, " learners", &config->learners);
    if (config->learners_next.count > 0)
        print_ids(out, " learners-next", &config->learners_next);
    fprintf(out, "%s\n", config->auto_leave ? " auto-leave" : "");
}

static void print_change(FILE *out, const struct entry *entry)
{
    static const char letters[] = {'v', 'l', 'r', 'u'};
    struct raft_config_change change;
    if (raft_config_change_decode(bytes_make(entry->payload, entry->payload_bytes), &change) != 0)
        return;
    if (raft_config_change_leaves(&change))
        fprintf(out, " leave-joint");
    for (uint32_t i = 0; i < change.count; i++)
        fprintf(out, " %c%" PRIu64, letters[change.changes[i].kind], change.changes[i].id);
}

void cluster_print_entry(FILE *out, const struct entry *entry)
{
    fprintf(out, "    %" PRIu64 "/%" PRIu64, entry->term, entry->index);
    if (entry->type == ENTRY_CONFIG_CHANGE) {
        fprintf(out, " config");
        print_change(out, entry);
        fputc('\n', out);
    } else {
        fprintf(out, " normal \"%.*s\"\n", (int)entry->payload_bytes,
                entry->payload_bytes > 0 ? (const char *)entry->payload : "");
    }
}

static void print_message_fields(FILE *out, const struct raft_message *m)
{
    switch (m->kind) {
    case RAFT_MESSAGE_APPEND:
        fprintf(out, " prev=%" PRIu64 "/%" PRIu64 " commit=%" PRIu64, m->log_term, m->index,
                m->commit);
        if (m->entry_count > 0)
            fprintf(out, " entries=%" PRIu64 "..%" PRIu64, m->index + 1, m->index + m->entry_count);
        break;
    case RAFT_MESSAGE_APPEND_RESPONSE:
        if (m->reject)
            fprintf(out, " rejected=%" PRIu64 " hint=%" PRIu64 "/%" PRIu64, m->index, m->log_term,
                    m->hint_index);
        else
            fprintf(out, " index=%" PRIu64, m->index);
        break;
    case RAFT_MESSAGE_HEARTBEAT:
        fprintf(out, " commit=%" PRIu64, m->commit);
        if (m->context != 0)
            fprintf(out, " round=%" PRIu64, m->context);
        break;
    case RAFT_MESSAGE_HEARTBEAT_RESPONSE:
        if (m->context != 0)
            fprintf(out, " round=%" PRIu64, m->context);
        break;
    case RAFT_MESSAGE_VOTE:
    case RAFT_MESSAGE_PRE_VOTE:
        fprintf(out, " last=%" PRIu64 "/%" PRIu64 " commit=%" PRIu64 "/%" PRIu64 "%s", m->log_term,
                m->index, m->commit_term, m->commit, m->transfer ? " transfer" : "");
        break;
    case RAFT_MESSAGE_VOTE_RESPONSE:
    case RAFT_MESSAGE_PRE_VOTE_RESPONSE:
        fprintf(out, " %s", m->reject ? "refused" : "granted");
        break;
    case RAFT_MESSAGE_SNAPSHOT:
        fprintf(out, " snapshot=%" PRIu64 "/%" PRIu64 " ", m->snapshot->term, m->snapshot->index);
        break;
    case RAFT_MESSAGE_TRANSFER:
    case RAFT_MESSAGE_READ_INDEX:
        fprintf(out, " context=%" PRIu64, m->context);
        break;
    case RAFT_MESSAGE_READ_INDEX_RESPONSE:
        fprintf(out, " context=%" PRIu64 " index=%" PRIu64, m->context, m->index);
        break;
    case RAFT_MESSAGE_TIMEOUT_NOW:
        break;
    }
}

void cluster_print_message(FILE *out, const struct cluster_message *message)
{
    const struct raft_message *m = &message->message;
    fprintf(out, "%" PRIu64 "->%" PRIu64 " %s term=%" PRIu64, m->from, m->to,
            raft_message_kind_name(m->kind), m->term);
    print_message_fields(out, m);
    if (m->kind == RAFT_MESSAGE_SNAPSHOT)
        cluster_print_config(out, &m->snapshot->config);
    else
        fputc('\n', out);
}
