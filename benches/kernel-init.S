# First and only program of a measured boot: writes the TSC, in decimal, to the kernel's log and restarts the machine.
.globl _start
_start:
  rdtsc
  shl $32, %rdx
  or %rdx, %rax
  lea digits(%rip), %rdi
  mov $10, %ecx
1: xor %edx, %edx
  div %rcx
  add $'0', %dl
  dec %rdi
  mov %dl, (%rdi)
  test %rax, %rax
  jnz 1b
  sub $prefix_end - prefix, %rdi
  push %rdi
  lea prefix(%rip), %rsi
  mov $prefix_end - prefix, %ecx
  rep movsb

  mov $165, %eax          # mount("d", "/dev", "devtmpfs", 0, 0)
  lea source(%rip), %rdi
  lea dev(%rip), %rsi
  lea devtmpfs(%rip), %rdx
  xor %r10d, %r10d
  xor %r8d, %r8d
  syscall
  mov $2, %eax            # open("/dev/kmsg", O_WRONLY)
  lea kmsg(%rip), %rdi
  mov $1, %esi
  syscall
  mov %eax, %edi          # write
  pop %rsi
  lea end(%rip), %rdx
  sub %rsi, %rdx
  mov $1, %eax
  syscall
  mov $169, %eax          # reboot(RB_AUTOBOOT)
  mov $0xfee1dead, %edi
  mov $672274793, %esi
  mov $0x01234567, %edx
  syscall
  hlt

.section .rodata
source: .asciz "d"
dev: .asciz "/dev"
devtmpfs: .asciz "devtmpfs"
kmsg: .asciz "/dev/kmsg"
prefix: .ascii "<0>init at "
prefix_end:
.data
  .skip 64
digits: .ascii "\n"
end:
