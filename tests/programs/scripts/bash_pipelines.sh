# Pipelines, command substitution, here-documents, here-strings, arithmetic, arrays.
set -o pipefail
seq 1 1000 | grep 7 | sort -rn | head -5
printf '%s\n' b a c | sort | tr '\n' ' '; echo
cat <<EOF | wc -l
one
two $(echo three | tr a-z A-Z)
EOF
cat <<'EOF'
literal $HOME `date`
EOF
cat <<-EOF
	tabs removed
	EOF
read -r a b rest <<< "first second and the rest"; echo "$b|$rest"
false | true; echo "pipefail ${PIPESTATUS[*]} $?"
yes | head -1
for i in {1..20}; do echo $((i * i)); done | awk '{s += $1} END {print s}'
declare -A m=([x]=1 [y]=2); echo "${m[x]}${m[y]}"
diff <(seq 5) <(seq 2 6)
echo "substitution $?"
exec 5> /tmp/five; echo to five >&5; exec 5>&-; cat /tmp/five
{ echo out; echo err >&2; } 2>&1 | sort
x=$(for i in 1 2 3; do (exit $i) || echo "status $?"; done); echo "$x"
echo {a,b}{1,2}
(cd /usr && pwd); pwd
mapfile -t lines < <(printf 'l1\nl2\n'); echo "${#lines[@]}"
coproc CAT { cat; }; echo through >&"${CAT[1]}"; read -r -u "${CAT[0]}" got; echo "$got"
eval "exec ${CAT[1]}>&-"; wait "$CAT_PID"; echo "coproc $?"
seq 100000 | (sleep 0.1; tail -1)
