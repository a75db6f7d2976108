/* The floor: passes bytes between a client and the upstream, one upstream connection per client, and
 * knows nothing of HTTP. What a gateway costs beyond this is what it does.
 *
 *     relay LISTEN_PORT UPSTREAM_PORT      both on 127.0.0.1; LISTEN_PORT 0 takes a free one
 */
#include "net.h"

enum { BUFFER = 64 * 1024, EVENTS = 256 };

typedef struct end end_t;
struct end {
    int fd;
    end_t *other;
    uint32_t wanted;
    char *kept; /* what the other side sent and this one has not taken yet */
    size_t kept_from, kept_to;
    end_t *next_dead;
};

static int epoll;
static end_t *dead; /* freed after the round of events, which may still name them */
static char buffer[BUFFER];

static end_t *add(int fd) {
    end_t *end = calloc(1, sizeof *end);
    if (!end) die("calloc");
    end->fd = fd;
    end->wanted = EPOLLIN;
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, end);
    return end;
}

static void want(end_t *end, uint32_t events) {
    if (end->wanted != events) watch(epoll, EPOLL_CTL_MOD, end->fd, end->wanted = events, end);
}

static void drop(end_t *end) {
    if (end->fd < 0) return;
    close(end->fd);
    end->fd = -1;
    end->next_dead = dead;
    dead = end;
    if (end->other) drop(end->other);
}

static void on_writable(end_t *end) {
    ssize_t sent = send(end->fd, end->kept + end->kept_from, end->kept_to - end->kept_from, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) drop(end);
        return;
    }
    end->kept_from += (size_t)sent;
    if (end->kept_from < end->kept_to) return;
    free(end->kept);
    end->kept = NULL;
    want(end, EPOLLIN);
    want(end->other, EPOLLIN);
}

static void on_readable(end_t *end) {
    end_t *to = end->other;
    ssize_t got = to->kept ? 0 : recv(end->fd, buffer, sizeof buffer, 0), sent; /* kept: it was reset */
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(end);
        return;
    }
    sent = send(to->fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent == got) return;
    if (sent < 0 && errno != EAGAIN) {
        drop(end);
        return;
    }
    if (sent < 0) sent = 0;
    to->kept = malloc((size_t)(got - sent));
    if (!to->kept) die("malloc");
    memcpy(to->kept, buffer + sent, (size_t)(got - sent));
    to->kept_from = 0;
    to->kept_to = (size_t)(got - sent);
    want(to, to->wanted | EPOLLOUT);
    want(end, end->wanted & ~(uint32_t)EPOLLIN); /* until the other side has taken it */
}

static void on_clients(int listener, int upstream_port) {
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), upstream;
        end_t *near, *far;
        if (client < 0) return;
        no_delay(client);
        upstream = begin_connect(upstream_port);
        if (upstream < 0) {
            close(client);
            continue;
        }
        near = add(client);
        far = add(upstream);
        near->other = far;
        far->other = near;
    }
}

int main(int count, char **words) {
    struct epoll_event events[EVENTS];
    int listener, upstream_port;
    if (count != 3) {
        fprintf(stderr, "relay LISTEN_PORT UPSTREAM_PORT\n");
        return 2;
    }
    more_files();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    upstream_port = atoi(words[2]);
    listener = listen_and_tell(atoi(words[1]));
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            end_t *end = events[i].data.ptr;
            if (!end) {
                on_clients(listener, upstream_port);
                continue;
            }
            if (end->fd >= 0 && (events[i].events & EPOLLOUT) && end->kept) on_writable(end);
            if (end->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) on_readable(end);
        }
        while (dead) {
            end_t *end = dead;
            dead = end->next_dead;
            free(end->kept);
            free(end);
        }
    }
}
