export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
mkdir /tmp/g && cd /tmp/g
git init -q -b main; git config gc.auto 0
cp -r /usr/include/linux inc; git add -A; git commit -qm 'first'; git log --format='%H %s'
echo change >> inc/fs.h; rm inc/fb.h; echo new > new; git status --short; git diff --stat
git add -A; git commit -qm second; git log --stat --oneline | tail -5; git diff HEAD~1 --shortstat
git checkout -qb side HEAD~1; echo side > side; git add side; git commit -qm side; git checkout -q main; git merge -q -m merge side; git log --graph --oneline | cat
git gc -q; git fsck; find .git/objects -name '*.pack' | wc -l; git count-objects -v | grep -E 'in-pack|^count'
git clone -q /tmp/g /tmp/h; cd /tmp/h; git rev-parse HEAD; git grep -c define -- inc/fs.h; git blame -s side | cat; git stash list; git tag v1; git describe
git archive HEAD | sha256sum; git bundle create -q /tmp/b HEAD main && git bundle verify -q /tmp/b; echo $?; git rev-list --count HEAD; git ls-files | wc -l
