/* What a stranger on the peer port says of itself. What is understood is bounded, is judged, and is
 * understood again when it is written as we write it. */
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "server/admission.h"
#include "server/membership.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(const struct greeting *greeting)
{
    char text[GREETING_BYTES_MAX], url[300], reason[CONFIG_TEXT_BYTES];
    struct config_urls urls = {0};
    struct greeting again;
    for (uint32_t i = 0; i < greeting->address_count; i++) {
        snprintf(url, sizeof(url), "http://%s:%u", greeting->addresses[i].host,
                 greeting->addresses[i].port);
        urls.count += config_url_parse(&urls.url[urls.count], url, reason, sizeof(reason)) == 0;
    }
    greeting_write(text, greeting->life, &urls);
    greeting_set_fresh(text, greeting->fresh);
    invariant(greeting_read(bytes_from_text(text), &again) == 0);
    invariant(again.fresh == greeting->fresh && again.life == greeting->life);
    invariant(again.address_count == urls.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct membership membership;
    static struct admission admission = {.membership = &membership, .self = 1};
    struct greeting greeting;
    uint8_t *copy = malloc(size + 1); /* at its own end, so that reading beyond it is noticed */
    memcpy(copy, data, size);
    int error = greeting_read(bytes_make(copy, size), &greeting);
    free(copy);
    if (error < 0)
        return 0;
    invariant(greeting.address_count <= PEER_ADDRESSES_MAX);
    for (uint32_t i = 0; i < greeting.address_count; i++)
        invariant(memchr(greeting.addresses[i].host, '\0', PEER_HOST_BYTES) != NULL);
    if (greeting.life != 0)
        check_again(&greeting);
    int decided = admission_decide(&admission, 2 + size % 64, &greeting, true);
    invariant(decided == 0 && admission_expose(&admission) == 0);
    return 0;
}
