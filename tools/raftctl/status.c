#include <stdio.h>

#include "tools/raftctl/kv.h"
#include "tools/raftctl/print.h"

/* Every endpoint is asked by itself; one that does not answer keeps no other from being shown. */
int status_run(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv)
{
    const char *endpoints[KV_CLIENT_ENDPOINTS_MAX];
    struct print_status statuses[KV_CLIENT_ENDPOINTS_MAX];
    uint32_t answered = 0;
    raftctl_parse(ctl, command, NULL, 0, argc, argv);
    raftctl_choose_output(ctl);
    uint32_t count = raftctl_endpoints(ctl, endpoints);
    for (uint32_t i = 0; i < count; i++) {
        Etcdserverpb__StatusRequest request = ETCDSERVERPB__STATUS_REQUEST__INIT;
        struct kv_failure failure;
        struct kv_client *client = raftctl_open_client(ctl, &endpoints[i], 1);
        statuses[answered].endpoint = endpoints[i];
        if (kv_client_status(client, &request, 0, &statuses[answered].response, &failure) == 0) {
            answered++;
        } else {
            raftctl_explain(&failure);
            fprintf(stderr, "Failed to get the status of endpoint %s (%s)\n", endpoints[i],
                    failure.text);
        }
        kv_client_close(client);
    }
    print_statuses(ctl, statuses, answered);
    for (uint32_t i = 0; i < answered; i++)
        etcdserverpb__status_response__free_unpacked(statuses[i].response, NULL);
    return answered == count ? RAFTCTL_OK : RAFTCTL_ERROR;
}
