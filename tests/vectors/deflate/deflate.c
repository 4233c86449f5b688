/* Packs a text and unpacks it again: what links against a library that was built before. */
#include <stdio.h>
#include <string.h>
#include <zlib.h>

int main(void) {
  unsigned char packed[1000], again[1000];
  uLongf size = sizeof packed, back = sizeof again;
  const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
  if (compress(packed, &size, (const Bytef *)text, strlen(text) + 1) != Z_OK) return 1;
  if (uncompress(again, &back, packed, size) != Z_OK || strcmp((char *)again, text)) return 2;
  printf("zlib %s\n", zlibVersion());
  return size < 30 ? 0 : 3;
}
