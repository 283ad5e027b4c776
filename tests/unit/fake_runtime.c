/* Stands in for the runtime: runs the program natively, and says which process it is. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char path[4096], program[4096], pid[32];
    (void)argc;
    snprintf(path, sizeof path, "%s.pid", getenv("MEGALITH_CLIENT_SOCKET"));
    snprintf(program, sizeof program, "%s", getenv("MEGALITH_PROGRAM"));
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int length = snprintf(pid, sizeof pid, "%d\n", getpid());
    if (file < 0 || write(file, pid, length) != length || strlen(getenv("MEGALITH_MACHINE")) != 16)
        return 99;
    unsetenv("MEGALITH_CLIENT_SOCKET");
    unsetenv("MEGALITH_MACHINE");
    unsetenv("MEGALITH_PROGRAM");
    execv(program, argv);
    perror(program);
    return 98;
}
