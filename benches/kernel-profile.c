/*
 * A plugin for QEMU's TCG: how many guest instructions each translated block executed. Written for benches/kernel -p, read
 * by kernel-profile.py. The few prototypes it uses of QEMU's plugin interface (version 1) stand here, for Debian packages
 * the header with the sources only.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
enum { INLINE_ADD = 0, SLOTS = 1 << 20 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*cb)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *counter, uint64_t add);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*cb)(plugin_id, void *), void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static struct slot {
    uint64_t address, executed;
} slots[SLOTS];
static char *out;

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    size_t at = (address * 0x9E3779B97F4A7C15u) >> 44;

    (void)id;
    for (size_t tried = 0; slots[at].address && slots[at].address != address; tried++) {
        if (tried == SLOTS)
            return;
        at = (at + 1) % SLOTS;
    }
    slots[at].address = address;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD, &slots[at].executed, qemu_plugin_tb_n_insns(tb));
}

static void finished(plugin_id id, void *data)
{
    FILE *file = fopen(out, "w");

    (void)id, (void)data;
    if (!file)
        return;
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].executed)
            fprintf(file, "%lx %lu\n", (unsigned long)slots[i].address, (unsigned long)slots[i].executed);
    fclose(file);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out = strdup(argv[i] + 4);
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
