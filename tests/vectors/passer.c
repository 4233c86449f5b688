/* passer FILE: makes a file of 1 MiB, and gives its descriptor to whoever listens at the abstract
   socket NAME. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char contents[1 << 20];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec data = {"x", 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1,
                             .msg_control = &control, .msg_controllen = sizeof control};
    int file = argc > 1 ? open(argv[1], O_RDWR | O_CREAT, 0644) : -1;
    if (write(file, contents, sizeof contents) != sizeof contents) return 1;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &file, sizeof file);
    memcpy(address.sun_path + 1, NAME, sizeof NAME - 1);
    int connection = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + sizeof NAME;
    if (connect(connection, (struct sockaddr *)&address, length)) return 2;
    return sendmsg(connection, &message, 0) == 1 ? 0 : 3;
}
