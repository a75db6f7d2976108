/* The upstream that streams: answers POSTs in OpenAI's dialect, its chunks on a schedule.
 *
 *     emitter PORT INTERVAL_US [CERTIFICATE KEY]
 *
 * A body with "stream":true gets server-sent events: one chunk at once, then one every INTERVAL_US (0: none)
 * until there were "max_tokens" of them (not given: without end), then the finish and [DONE]. The streams take
 * their turns evenly over the interval, so that a proxy is woken once per chunk, as by real streams.
 * Every other POST gets one small JSON answer after its whole body was read; a GET gets an empty list.
 * PORT 0 takes a free one, which is printed. Built with -DWITH_TLS it speaks TLS 1.3 if given a certificate.
 */
#include "net.h"

#include <signal.h>
#include <strings.h>
#include <sys/timerfd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
static SSL_CTX *tls;
#endif

enum { EVENTS = 256, SLOTS = 200, READ = 64 * 1024, MAX_REQUEST = 8 << 20, MAX_UNSENT = 1 << 20 };

#define CHUNK_HEAD "data: {\"id\":\"chatcmpl-B1c2D3e4\",\"object\":\"chat.completion.chunk\",\"created\":1795000000,"
#define CHUNK_OPEN CHUNK_HEAD "\"model\":\"gpt-5.2\",\"choices\":[{\"index\":0,\"delta\":"
#define CHUNK CHUNK_OPEN "{\"content\":\" token\"},\"finish_reason\":null}]}\n\n"
#define LAST CHUNK_OPEN "{},\"finish_reason\":\"stop\"}]}\n\n"
#define DONE "data: [DONE]\n\n"
#define STREAM_HEAD \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
#define JSON_HEAD "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s"
#define ANSWER_OPEN "{\"id\":\"chatcmpl-B1c2D3e4\",\"object\":\"chat.completion\",\"created\":1795000000,\"model\":\"gpt-5.2\","
#define ANSWER_TEXT "\"The answer to the question that was asked, in a sentence or two, as a model would give it to a caller.\""
#define ANSWER_BODY ANSWER_OPEN "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":" ANSWER_TEXT "}," \
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":61,\"completion_tokens\":24,\"total_tokens\":85}," \
    "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_44709d6fcb\"}"
#define LIST_BODY "{\"object\":\"list\",\"data\":[{\"id\":\"gpt-5.2\",\"object\":\"model\",\"created\":1795000000,\"owned_by\":\"bench\"}]}"

typedef struct conn conn_t;
struct conn {
    int fd;
    int is_streaming, is_dead;
    long left; /* chunks still to send; -1: without end */
    char *in;
    size_t in_size, in_room;
    char *out;
    size_t out_from, out_to;
    conn_t *next, **pointed_by; /* in its slot of the wheel */
    conn_t *next_dead;
#ifdef WITH_TLS
    SSL *ssl;
#endif
};

static int epoll;
static long interval_us;
static conn_t *wheel[SLOTS], *dead;
static unsigned next_slot, turn;
static char framed_chunk[512], framed_end[1024], answer[1024], list[512];
static size_t framed_chunk_size, framed_end_size;

static void leave_wheel(conn_t *conn) {
    if (!conn->pointed_by) return;
    *conn->pointed_by = conn->next;
    if (conn->next) conn->next->pointed_by = conn->pointed_by;
    conn->pointed_by = NULL;
}

static void drop(conn_t *conn) {
    if (conn->is_dead) return;
    leave_wheel(conn);
    close(conn->fd);
    conn->is_dead = 1;
    conn->next_dead = dead;
    dead = conn;
}

/* Bytes moved; 0: would block; -1: over. */
static ssize_t read_some(conn_t *conn, char *into, size_t room) {
    ssize_t got;
#ifdef WITH_TLS
    if (conn->ssl) {
        int count = SSL_read(conn->ssl, into, (int)room);
        if (count > 0) return count;
        int why = SSL_get_error(conn->ssl, count);
        ERR_clear_error();
        return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
#endif
    got = recv(conn->fd, into, room, 0);
    return got > 0 ? got : got < 0 && errno == EAGAIN ? 0 : -1;
}

static ssize_t write_some(conn_t *conn, const char *from, size_t size) {
    ssize_t sent;
#ifdef WITH_TLS
    if (conn->ssl) {
        int count = SSL_write(conn->ssl, from, (int)size);
        if (count > 0) return count;
        int why = SSL_get_error(conn->ssl, count);
        ERR_clear_error();
        return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
#endif
    sent = send(conn->fd, from, size, MSG_NOSIGNAL);
    return sent >= 0 ? sent : errno == EAGAIN ? 0 : -1;
}

static void send_all(conn_t *conn, const char *data, size_t size) {
    if (!conn->out) {
        while (size) {
            ssize_t sent = write_some(conn, data, size);
            if (sent < 0) {
                drop(conn);
                return;
            }
            if (sent == 0) break;
            data += sent;
            size -= (size_t)sent;
        }
        if (!size) return;
        watch(epoll, EPOLL_CTL_MOD, conn->fd, EPOLLIN | EPOLLOUT, conn);
    }
    if (conn->out_to - conn->out_from + size > MAX_UNSENT) { /* it is not being read */
        drop(conn);
        return;
    }
    conn->out = realloc(conn->out, conn->out_to + size);
    if (!conn->out) die("realloc");
    memcpy(conn->out + conn->out_to, data, size);
    conn->out_to += size;
}

static void on_writable(conn_t *conn) {
    while (conn->out_from < conn->out_to) {
        ssize_t sent = write_some(conn, conn->out + conn->out_from, conn->out_to - conn->out_from);
        if (sent < 0) {
            drop(conn);
            return;
        }
        if (sent == 0) return;
        conn->out_from += (size_t)sent;
    }
    free(conn->out);
    conn->out = NULL;
    conn->out_from = conn->out_to = 0;
    watch(epoll, EPOLL_CTL_MOD, conn->fd, EPOLLIN, conn);
}

static void send_chunk(conn_t *conn) {
    if (conn->left == 0) {
        leave_wheel(conn);
        conn->is_streaming = 0;
        send_all(conn, framed_end, framed_end_size);
        return;
    }
    if (conn->left > 0) conn->left--;
    send_all(conn, framed_chunk, framed_chunk_size);
}

static void begin_stream(conn_t *conn, long chunks) {
    conn_t **slot = &wheel[next_slot++ % SLOTS];
    char first[1024];
    memcpy(first, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    memcpy(first + sizeof STREAM_HEAD - 1, framed_chunk, framed_chunk_size);
    conn->is_streaming = 1;
    conn->left = chunks > 0 ? chunks - 1 : -1;
    conn->next = *slot;
    conn->pointed_by = slot;
    if (conn->next) conn->next->pointed_by = &conn->next;
    *slot = conn;
    send_all(conn, first, sizeof STREAM_HEAD - 1 + framed_chunk_size);
}

static const char *field(const char *head, const char *end, const char *name) {
    size_t size = strlen(name);
    for (const char *line = head; line && line < end; line = memmem(line, (size_t)(end - line), "\r\n", 2)) {
        if (*line == '\r') line += 2;
        if ((size_t)(end - line) > size && !strncasecmp(line, name, size) && line[size] == ':') return line + size + 1;
    }
    return NULL;
}

static long number_after(const char *body, size_t size, const char *name) {
    const char *found = memmem(body, size, name, strlen(name));
    return found ? strtol(found + strlen(name), NULL, 10) : 0;
}

static int is_stream(const char *body, size_t size) {
    return memmem(body, size, "\"stream\":true", 13) || memmem(body, size, "\"stream\": true", 14);
}

/* Answers every whole request that has arrived. */
static void on_requests(conn_t *conn) {
    while (!conn->is_streaming && !conn->is_dead && conn->in_size) {
        char *end = memmem(conn->in, conn->in_size, "\r\n\r\n", 4);
        const char *length;
        size_t head, body;
        if (!end) return;
        *end = 0;
        length = field(conn->in, end, "content-length");
        body = length ? strtoul(length, NULL, 10) : 0;
        *end = '\r';
        head = (size_t)(end - conn->in) + 4;
        if (conn->in_size < head + body) return;
        conn->in[conn->in_size] = 0;
        if (conn->in[0] != 'P') {
            send_all(conn, list, strlen(list));
        } else if (is_stream(conn->in + head, body)) {
            long chunks = number_after(conn->in + head, body, "\"max_tokens\":");
            begin_stream(conn, chunks);
        } else {
            send_all(conn, answer, strlen(answer));
        }
        conn->in_size -= head + body;
        memmove(conn->in, conn->in + head + body, conn->in_size);
    }
}

static void on_readable(conn_t *conn) {
    for (;;) {
        ssize_t got;
        if (conn->in_size + READ + 1 > conn->in_room) {
            if (conn->in_room > MAX_REQUEST) {
                drop(conn);
                return;
            }
            conn->in_room = 2 * conn->in_room + READ + 1;
            conn->in = realloc(conn->in, conn->in_room);
            if (!conn->in) die("realloc");
        }
        got = read_some(conn, conn->in + conn->in_size, READ);
        if (got < 0) {
            drop(conn);
            return;
        }
        conn->in_size += (size_t)got;
        if (got < READ) {
#ifdef WITH_TLS
            if (conn->ssl && got > 0) continue; /* there may be another record */
#endif
            break;
        }
    }
    on_requests(conn);
    if (!conn->in_size && !conn->is_dead) { /* thousands of idle streams need no buffers */
        free(conn->in);
        conn->in = NULL;
        conn->in_room = 0;
    }
}

static void on_clients(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        conn_t *conn;
        if (fd < 0) return;
        no_delay(fd);
        conn = calloc(1, sizeof *conn);
        if (!conn) die("calloc");
        conn->fd = fd;
#ifdef WITH_TLS
        if (tls) {
            conn->ssl = SSL_new(tls);
            SSL_set_fd(conn->ssl, fd);
            SSL_set_accept_state(conn->ssl);
        }
#endif
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, conn);
    }
}

static void on_tick(int timer) {
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) != sizeof ticks) return;
    for (; ticks; ticks--, turn++) {
        for (conn_t *conn = wheel[turn % SLOTS], *next; conn; conn = next) {
            next = conn->next;
            send_chunk(conn);
        }
    }
}

static void bury(void) {
    while (dead) {
        conn_t *conn = dead;
        dead = conn->next_dead;
#ifdef WITH_TLS
        SSL_free(conn->ssl);
#endif
        free(conn->in);
        free(conn->out);
        free(conn);
    }
}

static size_t frame(char *into, const char *data) {
    return (size_t)sprintf(into, "%zx\r\n%s\r\n", strlen(data), data);
}

static void speak_tls(const char *certificate, const char *key) {
#ifdef WITH_TLS
    tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
#else
    (void)certificate;
    (void)key;
    fprintf(stderr, "emitter: built without TLS\n");
    exit(1);
#endif
}

int main(int count, char **words) {
    struct epoll_event events[EVENTS];
    int listener, timer;
    if (count != 3 && count != 5) {
        fprintf(stderr, "emitter PORT INTERVAL_US [CERTIFICATE KEY]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    more_files();
    interval_us = atol(words[2]);
    if (count == 5) speak_tls(words[3], words[4]);
    framed_chunk_size = frame(framed_chunk, CHUNK);
    framed_end_size = frame(framed_end, LAST DONE);
    framed_end_size += (size_t)sprintf(framed_end + framed_end_size, "0\r\n\r\n");
    sprintf(answer, JSON_HEAD, strlen(ANSWER_BODY), ANSWER_BODY);
    sprintf(list, JSON_HEAD, strlen(LIST_BODY), LIST_BODY);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (interval_us) {
        long tick_ns = interval_us * 1000 / SLOTS;
        struct itimerspec every = {{tick_ns / 1000000000, tick_ns % 1000000000}, {0, 1}};
        timerfd_settime(timer, 0, &every, NULL);
    }
    listener = listen_and_tell(atoi(words[1]));
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN, &timer);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            conn_t *conn = events[i].data.ptr;
            if (!conn) {
                on_clients(listener);
            } else if (events[i].data.ptr == &timer) {
                on_tick(timer);
            } else {
                if (!conn->is_dead && conn->out) on_writable(conn);
                if (!conn->is_dead && (events[i].events & ~(uint32_t)EPOLLOUT)) on_readable(conn);
            }
        }
        bury();
    }
}
