// SPDX-License-Identifier: GPL-2.0-only
/* Gives a target the inputs of a folder, or single files, without a fuzzer. */
#include <dirent.h>
#include <sys/stat.h>

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

static unsigned int done;

static int one(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data;
	struct stat st;
	size_t n;

	if (!f || fstat(fileno(f), &st) < 0) {
		perror(path);
		return 1;
	}
	/* As large as the input, so that a byte beyond it is seen. */
	data = malloc(st.st_size ?: 1);
	n = data ? fread(data, 1, st.st_size, f) : 0;
	fclose(f);
	if (getenv("FUZZ_VERBOSE"))
		fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, n);
	free(data);
	done++;
	return 0;
}

static int folder(const char *path)
{
	struct dirent **list;
	int n = scandir(path, &list, NULL, alphasort), bad = 0;
	char file[4096];

	for (int i = 0; i < n; i++) {
		snprintf(file, sizeof(file), "%s/%s", path, list[i]->d_name);
		if (list[i]->d_name[0] != '.')
			bad |= one(file);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return bad;
}

int main(int argc, char **argv)
{
	struct stat st;
	int bad = 0;

	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++)
		bad |= stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode) ? folder(argv[i]) :
								       one(argv[i]);
	printf("%u inputs\n", done);
	return bad || !done;
}
