/* Installed set-user-ID root: prints which user it became, which no_new_privs prevents. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %d\n", (int)geteuid());
  return 0;
}
