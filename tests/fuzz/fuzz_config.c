/* --config-file: any bytes as YAML. It is read, or refused with a line that says why. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/invariant.h"
#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config config;
    static char option[64];
    static int fd = -1;
    char reason[CONFIG_TEXT_BYTES] = "";
    if (fd < 0) {
        fd = memfd_create("config", 0);
        snprintf(option, sizeof(option), "--config-file=/proc/self/fd/%d", fd);
    }
    invariant(fd >= 0 && ftruncate(fd, 0) == 0);
    invariant(pwrite(fd, data, size, 0) == (ssize_t)size);
    char *arguments[] = {option};
    int error = config_load(&config, 1, arguments, NULL, reason, sizeof(reason));
    invariant((error == 0) == (reason[0] == '\0'));
    invariant(config.warning_count <= CONFIG_WARNINGS_MAX);
    if (error == 0)
        invariant(config.listen_client.count > 0 && config.cores <= CONFIG_CORES_MAX);
    return 0;
}
