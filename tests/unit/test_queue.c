#include <criterion/criterion.h>
#include <signal.h>

#include "core/queue.h"

struct item {
    struct queue_link link;
    int value;
};

Test(queue, first_in_first_out_and_bounded)
{
    struct queue queue;
    struct item items[3];
    queue_init(&queue, 2);
    for (int i = 0; i < 3; i++) {
        queue_link_init(&items[i].link);
        items[i].value = i;
    }
    cr_assert(queue_push(&queue, &items[0].link));
    cr_assert(queue_push(&queue, &items[1].link));
    cr_assert_not(queue_push(&queue, &items[2].link), "a full queue refuses");
    for (int i = 0; i < 2; i++)
        cr_assert_eq(container_of(queue_pop(&queue), struct item, link)->value, i);
    cr_assert_null(queue_pop(&queue));
    cr_assert(queue_push(&queue, &items[0].link), "an emptied queue takes again");
}

Test(queue, double_push_is_noticed, .signal = SIGABRT)
{
    struct queue queue;
    struct item item;
    queue_init(&queue, 8);
    queue_link_init(&item.link);
    queue_append(&queue, &item.link);
    queue_append(&queue, &item.link);
}
