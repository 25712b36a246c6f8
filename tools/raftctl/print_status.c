#include "tools/raftctl/print.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tools/raftctl/json.h"
#include "tools/raftctl/text.h"

#define STATUS_COLUMNS    16
#define STATUS_CELL_BYTES 320

struct status_row {
    char cells[STATUS_COLUMNS][STATUS_CELL_BYTES];
};

static const char *const status_titles[STATUS_COLUMNS] = {
    "ENDPOINT",
    "ID",
    "VERSION",
    "STORAGE VERSION",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "QUOTA",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
    "DOWNGRADE TARGET VERSION",
    "DOWNGRADE ENABLED",
};

static const char *status_bool(bool value)
{
    return value ? "true" : "false";
}

static uint64_t status_member_id(const Etcdserverpb__StatusResponse *response)
{
    return response->header != NULL ? response->header->member_id : 0;
}

static void status_join_errors(const Etcdserverpb__StatusResponse *response, char *to, size_t bytes)
{
    size_t used = 0;
    to[0] = '\0';
    for (size_t i = 0; i < response->n_errors && used < bytes; i++)
        used += (size_t)snprintf(to + used, bytes - used, "%s%s", i > 0 ? ", " : "",
                                 response->errors[i]);
}

static void status_fill_row(const struct print_status *status, struct status_row *row)
{
    const Etcdserverpb__StatusResponse *response = status->response;
    const Etcdserverpb__DowngradeInfo *downgrade = response->downgradeinfo;
    int64_t in_use_percent =
        response->dbsize > 0 ? response->dbsizeinuse * 100 / response->dbsize : 100;
    char(*cell)[STATUS_CELL_BYTES] = row->cells;
    snprintf(cell[0], sizeof(*cell), "%s", status->endpoint);
    snprintf(cell[1], sizeof(*cell), "%" PRIx64, status_member_id(response));
    snprintf(cell[2], sizeof(*cell), "%s", response->version);
    snprintf(cell[3], sizeof(*cell), "%s", response->storageversion);
    text_format_size((uint64_t)response->dbsize, cell[4], sizeof(*cell));
    text_format_size((uint64_t)response->dbsizeinuse, cell[5], sizeof(*cell));
    snprintf(cell[6], sizeof(*cell), "%" PRId64 "%%", 100 - in_use_percent);
    text_format_size((uint64_t)response->dbsizequota, cell[7], sizeof(*cell));
    snprintf(cell[8], sizeof(*cell), "%s",
             status_bool(response->leader == status_member_id(response)));
    snprintf(cell[9], sizeof(*cell), "%s", status_bool(response->islearner));
    snprintf(cell[10], sizeof(*cell), "%" PRIu64, response->raftterm);
    snprintf(cell[11], sizeof(*cell), "%" PRIu64, response->raftindex);
    snprintf(cell[12], sizeof(*cell), "%" PRIu64, response->raftappliedindex);
    status_join_errors(response, cell[13], sizeof(*cell));
    snprintf(cell[14], sizeof(*cell), "%s", downgrade != NULL ? downgrade->targetversion : "");
    snprintf(cell[15], sizeof(*cell), "%s", status_bool(downgrade != NULL && downgrade->enabled));
}

/* ---- table -------------------------------------------------------------------------------------
 */

static void status_print_rule(const size_t widths[STATUS_COLUMNS], const char *left,
                              const char *middle, const char *right)
{
    for (uint32_t column = 0; column < STATUS_COLUMNS; column++) {
        fputs(column == 0 ? left : middle, stdout);
        for (size_t i = 0; i < widths[column] + 2; i++)
            fputs("─", stdout);
    }
    puts(right);
}

static void status_print_table(const struct status_row *rows, uint32_t count)
{
    size_t widths[STATUS_COLUMNS];
    for (uint32_t column = 0; column < STATUS_COLUMNS; column++) {
        widths[column] = strlen(status_titles[column]);
        for (uint32_t i = 0; i < count; i++)
            widths[column] = u64_max(widths[column], strlen(rows[i].cells[column]));
    }
    status_print_rule(widths, "┌", "┬", "┐");
    for (uint32_t column = 0; column < STATUS_COLUMNS; column++) {
        size_t spaces = widths[column] - strlen(status_titles[column]);
        printf("│ %*s%s%*s ", (int)(spaces / 2), "", status_titles[column],
               (int)(spaces - spaces / 2), "");
    }
    puts("│");
    if (count > 0)
        status_print_rule(widths, "├", "┼", "┤");
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t column = 0; column < STATUS_COLUMNS; column++)
            printf("│ %*s ", (int)widths[column], rows[i].cells[column]);
        puts("│");
    }
    status_print_rule(widths, "└", "┴", "┘");
}

/* ---- the other formats -------------------------------------------------------------------------
 */

static void status_print_fields(const struct raftctl *ctl, const struct print_status *status)
{
    const Etcdserverpb__StatusResponse *response = status->response;
    const Etcdserverpb__ResponseHeader *header = response->header;
    const Etcdserverpb__DowngradeInfo *downgrade = response->downgradeinfo;
    if (header != NULL) {
        printf(ctl->hex ? "\"ClusterID\" : %" PRIx64 "\n" : "\"ClusterID\" : %" PRIu64 "\n",
               header->cluster_id);
        printf(ctl->hex ? "\"MemberID\" : %" PRIx64 "\n" : "\"MemberID\" : %" PRIu64 "\n",
               header->member_id);
        if (header->revision > 0)
            printf("\"Revision\" : %" PRId64 "\n", header->revision);
        printf("\"RaftTerm\" : %" PRIu64 "\n", header->raft_term);
    }
    printf("\"Version\" : \"%s\"\n", response->version);
    printf("\"StorageVersion\" : \"%s\"\n", response->storageversion);
    printf("\"DBSize\" : %" PRId64 "\n", response->dbsize);
    printf("\"DBSizeInUse\" : %" PRId64 "\n", response->dbsizeinuse);
    printf("\"DBSizeQuota\" : %" PRId64 "\n", response->dbsizequota);
    printf("\"Leader\" : %" PRIu64 "\n", response->leader);
    printf("\"IsLearner\" : %s\n", status_bool(response->islearner));
    printf("\"RaftIndex\" : %" PRIu64 "\n", response->raftindex);
    printf("\"RaftAppliedIndex\" : %" PRIu64 "\n", response->raftappliedindex);
    fputs("\"Errors\" : [", stdout);
    for (size_t i = 0; i < response->n_errors; i++)
        printf("%s%s", i > 0 ? " " : "", response->errors[i]);
    puts("]");
    fputs("\"Endpoint\" : ", stdout);
    text_write_quoted(stdout, bytes_from_text(status->endpoint));
    printf("\n\"DowngradeTargetVersion\" : \"%s\"\n",
           downgrade != NULL ? downgrade->targetversion : "");
    printf("\"DowngradeEnabled\" : %s\n\n", status_bool(downgrade != NULL && downgrade->enabled));
}

static void status_print_json(const struct print_status *statuses, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        fputs(i == 0 ? "[{\"Endpoint\":" : ",{\"Endpoint\":", stdout);
        text_write_json(stdout, bytes_from_text(statuses[i].endpoint));
        fputs(",\"Status\":", stdout);
        json_write_message(stdout, &statuses[i].response->base);
        putchar('}');
    }
    puts(count == 0 ? "null" : "]");
}

void print_statuses(const struct raftctl *ctl, const struct print_status *statuses, uint32_t count)
{
    struct status_row *rows = raftctl_allocate((count + 1) * sizeof(*rows));
    for (uint32_t i = 0; i < count; i++)
        status_fill_row(&statuses[i], &rows[i]);
    switch (ctl->output) {
    case RAFTCTL_SIMPLE:
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t column = 0; column < STATUS_COLUMNS; column++)
                printf("%s%s", column > 0 ? ", " : "", rows[i].cells[column]);
            putchar('\n');
        }
        break;
    case RAFTCTL_TABLE:
        status_print_table(rows, count);
        break;
    case RAFTCTL_FIELDS:
        for (uint32_t i = 0; i < count; i++)
            status_print_fields(ctl, &statuses[i]);
        break;
    case RAFTCTL_JSON:
        status_print_json(statuses, count);
        break;
    case RAFTCTL_PROTOBUF:
        free(rows);
        raftctl_fail(RAFTCTL_BAD_FEATURE, "protobuf not supported as output format");
    }
    free(rows);
}
