# Read by interactive shells only.
case $- in *i*) ;; *) return ;; esac
PS1='\[\e[1;36m\]vmm\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\]\$ '
HISTCONTROL=ignoreboth HISTSIZE=10000 HISTFILESIZE=20000
shopt -s checkwinsize histappend
alias ls='ls --color=auto' ll='ls -l' grep='grep --color=auto'
