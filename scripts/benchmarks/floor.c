/*
 * The floor: what the kernel itself takes for N containers on one bridge with NAT, in one process of C.
 *
 *     floor N DIRECTORY [plain]
 *
 * DIRECTORY (an empty one on a tmpfs) takes the files of the containers.  It must run in network and mount
 * namespaces of its own.  Each container is made as netorch makes it: namespaces (mnt, uts, ipc, pid, net,
 * cgroup), a cgroup in every hierarchy of the host, a copy-on-write root by overlay, /proc, /sys with its
 * cgroups, /dev, /run, /tmp, generated files in /etc, masks, sysctls, cut capabilities; a veth pair born in
 * place, an address, a default route.  `plain` leaves out the root, the masks, the sysctls and the confinement.
 *
 * It prints {"up": s, "down": s} and waits for a line on stdin between the two.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Not <sys/mount.h>: it and <linux/mount.h> do not go together everywhere. */
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
int umount2(const char *target, int flags);

#define PLAIN (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
#define GROUP 0x6e6f
#define BATCH 64
#define FIRST_ADDRESS 0x0ac80002u /* 10.200.0.2 */

static int count, plain, hierarchies, bridge;
static char hierarchy[16][256], hierarchy_name[16][64];
static int is_v2[16];
static const char *directory;

struct container {
	pid_t pid;
	int ready; /* the read end of a pipe: a byte when it stands */
};
static struct container *containers;

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static long need(long result, const char *what)
{
	if (result < 0) fail(what);
	return result;
}

static void put(int at, const char *path, const char *text)
{
	int file = openat(at, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (file < 0) return; /* a sysctl that this kernel lacks */
	if (write(file, text, strlen(text)) < 0 && errno != EPERM && errno != EINVAL) fail(path);
	close(file);
}

/* -- mounts, by descriptor ------------------------------------------------------------------------- */

static int new_mount(const char *kind, unsigned attributes, const char *const *options)
{
	int context = need(syscall(SYS_fsopen, kind, FSOPEN_CLOEXEC), kind);
	for (; options && *options; options += 2)
		need(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, options[0], options[1], 0), options[0]);
	need(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0), kind);
	int made = need(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes), kind);
	close(context);
	return made;
}

static int tree(int at, const char *path, unsigned flags)
{
	return syscall(SYS_open_tree, at, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}

static void attributes(int mounted, uint64_t set, unsigned flags)
{
	struct mount_attr wanted = { .attr_set = set };
	need(syscall(SYS_mount_setattr, mounted, "", AT_EMPTY_PATH | flags, &wanted, sizeof wanted), "mount_setattr");
}

static int move(int mounted, int to, const char *path)
{
	unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (*path ? 0 : MOVE_MOUNT_T_EMPTY_PATH);
	return syscall(SYS_move_mount, mounted, "", to, path, flags);
}

static int inside(int root, const char *path)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return need(syscall(SYS_openat2, root, path, &how, sizeof how), path);
}

static void cover(int mounted, int root, const char *path)
{
	if (mounted < 0) return;
	if (move(mounted, root, path) < 0 && errno != ENOENT) fail(path);
	close(mounted);
}

static int make_dev(void)
{
	static const struct { const char *name; int major, minor; } nodes[] = {
		{ "null", 1, 3 }, { "zero", 1, 5 }, { "full", 1, 7 }, { "random", 1, 8 }, { "urandom", 1, 9 },
		{ "tty", 5, 0 }, { "net/tun", 10, 200 },
	};
	static const char *links[][2] = { { "fd", "/proc/self/fd" }, { "stdin", "/proc/self/fd/0" },
		{ "stdout", "/proc/self/fd/1" }, { "stderr", "/proc/self/fd/2" }, { "ptmx", "pts/ptmx" } };
	int dev = new_mount("tmpfs", MOUNT_ATTR_NOSUID, (const char *[]){ "mode", "0755", "size", "64k", NULL });
	for (const char *const *name = (const char *[]){ "pts", "shm", "mqueue", "net", NULL }; *name; name++)
		need(mkdirat(dev, *name, 0755), *name);
	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
		need(mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), "mknod");
	for (size_t i = 0; i < sizeof links / sizeof *links; i++) need(symlinkat(links[i][1], dev, links[i][0]), "symlink");
	return dev;
}

static void make_sys(int root, int number)
{
	char path[512];
	int sys = new_mount("sysfs", PLAIN, NULL), target = inside(root, "sys");
	need(move(sys, target, ""), "/sys");
	int shelf = new_mount("tmpfs", PLAIN, (const char *[]){ "mode", "0755", "size", "64k", NULL });
	need(move(shelf, sys, "fs/cgroup"), "/sys/fs/cgroup");
	for (int i = 0; i < hierarchies; i++) {
		snprintf(path, sizeof path, "%s/n%d", hierarchy[i], number);
		need(mkdirat(shelf, hierarchy_name[i], 0755), "mkdir");
		cover(tree(AT_FDCWD, path, 0), shelf, hierarchy_name[i]);
	}
	close(shelf);
	attributes(sys, PLAIN | MOUNT_ATTR_RDONLY, AT_RECURSIVE);
	close(target);
	close(sys);
}

static void make_root(int number)
{
	static const char *const masked[] = { "acpi", "asound", "interrupts", "kcore", "keys", "latency_stats",
		"sched_debug", "scsi", "timer_list", "timer_stats", NULL };
	static const char *const read_only[] = { "bus", "fs", "irq", "sysrq-trigger", "sys", NULL };
	static const char *const generated[] = { "hosts", "hostname", "resolv.conf", NULL };
	static const char *const sysctls[][2] = {
		{ "ipv4/ip_forward", "0" }, { "ipv6/conf/all/forwarding", "0" }, { "ipv6/conf/default/forwarding", "0" },
		{ "ipv4/conf/all/accept_redirects", "1" }, { "ipv4/conf/all/forwarding", "0" },
		{ "ipv6/conf/all/accept_redirects", "1" }, { "ipv4/conf/default/accept_redirects", "1" },
		{ "ipv4/conf/default/forwarding", "0" }, { "ipv6/conf/default/accept_dad", "0" },
		{ "ipv6/conf/default/accept_redirects", "1" }, { "ipv6/conf/default/addr_gen_mode", "1" },
		{ "ipv4/ping_group_range", "0 2147483647" }, { "ipv4/ip_unprivileged_port_start", "0" } };
	char own[512], lower[64], upper[64], work[64], name[32];

	need(mount(NULL, "/", NULL, 0x4000 | (1 << 18) /* MS_REC | MS_PRIVATE */, NULL), "private mounts");
	snprintf(own, sizeof own, "%s/%d", directory, number);
	int files = need(open(own, O_PATH | O_DIRECTORY | O_CLOEXEC), own);
	int store = new_mount("tmpfs", MOUNT_ATTR_NODEV, (const char *[]){ "mode", "0755", NULL });
	for (const char *const *d = (const char *[]){ "upper", "work", "root", "empty", "run", "tmp", NULL }; *d; d++)
		need(mkdirat(store, *d, 0755), *d);
	need(move(store, files, ""), "the root's tmpfs");
	int host = need(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "/");
	snprintf(lower, sizeof lower, "/proc/self/fd/%d", host);
	snprintf(upper, sizeof upper, "/proc/self/fd/%d/upper", store);
	snprintf(work, sizeof work, "/proc/self/fd/%d/work", store);
	int root = new_mount("overlay", 0, (const char *[]){ "source", "overlay", "lowerdir", lower, "upperdir", upper,
		"workdir", work, NULL });
	need(move(root, store, "root"), "overlay");
	close(host);

	for (const char *const *d = (const char *[]){ "run", "tmp", NULL }; *d; d++) {
		int own_tree = need(tree(store, *d, 0), *d), target = inside(root, *d);
		attributes(own_tree, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0);
		cover(own_tree, target, "");
		close(target);
	}
	for (const char *const *g = generated; *g; g++) {
		snprintf(name, sizeof name, "etc/%s", *g);
		int file = need(tree(files, *g, 0), *g), target = inside(root, name);
		attributes(file, MOUNT_ATTR_RDONLY | PLAIN, 0);
		cover(file, target, "");
		close(target);
	}
	int proc = new_mount("proc", PLAIN, NULL), target = inside(root, "proc");
	need(move(proc, target, ""), "/proc");
	make_sys(root, number);
	int dev = make_dev(), dev_target = inside(root, "dev");
	need(move(dev, dev_target, ""), "/dev");
	cover(new_mount("devpts", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
			(const char *[]){ "ptmxmode", "0666", "mode", "0620", "gid", "5", NULL }), dev, "pts");
	cover(new_mount("tmpfs", PLAIN, (const char *[]){ "mode", "1777", "size", "64m", NULL }), dev, "shm");
	cover(new_mount("mqueue", PLAIN, NULL), dev, "mqueue");

	int net = need(openat(proc, "sys/net", O_PATH | O_DIRECTORY | O_CLOEXEC), "sys/net");
	for (size_t i = 0; i < sizeof sysctls / sizeof *sysctls; i++) put(net, sysctls[i][0], sysctls[i][1]);

	int empty = need(tree(store, "empty", 0), "empty"), network = need(tree(proc, "sys/net", 0), "sys/net");
	attributes(empty, MOUNT_ATTR_RDONLY | PLAIN, 0);
	for (const char *const *m = masked; *m; m++) {
		struct stat state;
		if (fstatat(proc, *m, &state, 0)) continue;
		cover(S_ISDIR(state.st_mode) ? tree(empty, "", AT_EMPTY_PATH) : tree(dev, "null", 0), proc, *m);
	}
	for (const char *const *r = read_only; *r; r++) {
		int own_tree = tree(proc, *r, 0);
		if (own_tree >= 0) attributes(own_tree, MOUNT_ATTR_RDONLY, 0);
		cover(own_tree, proc, *r);
	}
	cover(network, proc, "sys/net");
	need(fchdir(root), "root");
	need(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	need(umount2(".", 2 /* MNT_DETACH */), "umount");
	need(chdir("/"), "/");
}

static void confine(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	uint32_t kept = 0xa80425fb | 1 << CAP_NET_ADMIN;
	struct __user_cap_data_struct sets[2] = { { .effective = kept, .permitted = kept } };
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	need(syscall(SYS_capset, &header, sets), "capset");
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static void first_process(int number, int ready)
{
	char name[16];
	snprintf(name, sizeof name, "h%d", number);
	need(unshare(CLONE_NEWCGROUP), "cgroup namespace");
	need(sethostname(name, strlen(name)), "hostname");
	setsid();
	if (!plain) {
		make_root(number);
		confine();
	}
	need(dup2(ready, 3), "dup2");
	syscall(SYS_close_range, 4, ~0u, 0);
	need(write(3, "", 1), "ready");
	close(3);
	signal(SIGCHLD, SIG_IGN); /* the kernel reaps */
	for (;;) pause();
}

/* -- cgroups ----------------------------------------------------------------------------------------- */

static void find_hierarchies(void)
{
	char line[1024], own[16][512], names[16][256];
	int owns = 0;
	FILE *file = fopen("/proc/self/cgroup", "re");
	if (!file) fail("/proc/self/cgroup");
	while (owns < 16 && fgets(line, sizeof line, file)) {
		names[owns][0] = own[owns][0] = 0;
		if (sscanf(line, "%*d:%255[^:]:%511s", names[owns], own[owns]) < 2) sscanf(line, "%*d::%511s", own[owns]);
		owns++;
	}
	fclose(file);
	file = fopen("/proc/self/mountinfo", "re");
	if (!file) fail("/proc/self/mountinfo");
	while (hierarchies < 16 && fgets(line, sizeof line, file)) {
		char point[256], kind[64], options[512] = "";
		char *dash = strstr(line, " - ");
		if (!dash || sscanf(line, "%*s %*s %*s %*s %255s", point) != 1) continue;
		if (sscanf(dash, " - %63s %*s %511s", kind, options) < 1 || strncmp(kind, "cgroup", 6)) continue;
		for (int i = 0; i < owns; i++) {
			int v2 = !strcmp(kind, "cgroup2");
			if (v2 ? names[i][0] != 0 : !names[i][0] || !strstr(options, names[i])) continue;
			const char *base = strrchr(point, '/') + 1;
			snprintf(hierarchy[hierarchies], 256, "%.120s%.100s/floor.%d", point, strcmp(own[i], "/") ? own[i] : "",
				 getpid());
			snprintf(hierarchy_name[hierarchies], 64, "%.60s", base);
			is_v2[hierarchies++] = v2;
			break;
		}
	}
	fclose(file);
}

static void copy_setting(const char *from, const char *to, const char *name)
{
	char path[600], text[256] = "";
	snprintf(path, sizeof path, "%s/%s", from, name);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0) return;
	ssize_t length = read(file, text, sizeof text - 1);
	close(file);
	snprintf(path, sizeof path, "%s/%s", to, name);
	if (length > 1) put(AT_FDCWD, path, text);
}

static void make_cgroup(const char *path)
{
	char parent[600];
	need(mkdir(path, 0755), path);
	snprintf(parent, sizeof parent, "%s", path);
	*strrchr(parent, '/') = 0;
	copy_setting(parent, path, "cpuset.cpus"); /* a v1 cpuset is empty, and nobody can enter it */
	copy_setting(parent, path, "cpuset.mems");
}

/* -- rtnetlink --------------------------------------------------------------------------------------- */

struct buffer {
	size_t length;
	uint32_t last;
	char data[BATCH * 512];
};

static struct nlmsghdr *message(struct buffer *b, int type, int flags, const void *head, size_t size)
{
	struct nlmsghdr *m = (void *)(b->data + b->length);
	*m = (struct nlmsghdr){ .nlmsg_len = NLMSG_LENGTH(size), .nlmsg_type = type,
		.nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = ++b->last };
	memcpy(NLMSG_DATA(m), head, size);
	b->length += NLMSG_ALIGN(m->nlmsg_len);
	return m;
}

static struct rtattr *attribute(struct buffer *b, struct nlmsghdr *m, int type, const void *value, size_t size)
{
	struct rtattr *a = (void *)(b->data + b->length);
	*a = (struct rtattr){ .rta_type = type, .rta_len = RTA_LENGTH(size) };
	if (size) memcpy(RTA_DATA(a), value, size);
	b->length += RTA_ALIGN(a->rta_len);
	m->nlmsg_len = b->data + b->length - (char *)m;
	return a;
}

static void number(struct buffer *b, struct nlmsghdr *m, int type, uint32_t value) { attribute(b, m, type, &value, 4); }
static void text(struct buffer *b, struct nlmsghdr *m, int type, const char *value)
{
	attribute(b, m, type, value, strlen(value) + 1);
}
static void end(struct buffer *b, struct rtattr *nest) { nest->rta_len = b->data + b->length - (char *)nest; }

static void flush(int channel, struct buffer *b, const char *what)
{
	char answer[16384];
	if (!b->length) return;
	struct nlmsghdr *m = (void *)b->data, *final = m;
	for (size_t at = 0; at < b->length; at += NLMSG_ALIGN(m->nlmsg_len)) final = m = (void *)(b->data + at);
	final->nlmsg_flags |= NLM_F_ACK;
	need(send(channel, b->data, b->length, 0), what);
	for (int done = 0; !done;) {
		ssize_t size = need(recv(channel, answer, sizeof answer, 0), what);
		for (m = (void *)answer; NLMSG_OK(m, size); m = NLMSG_NEXT(m, size)) {
			struct nlmsgerr *error = NLMSG_DATA(m);
			if (m->nlmsg_type != NLMSG_ERROR) continue;
			if (error->error) errno = -error->error, fail(what);
			done |= m->nlmsg_seq == final->nlmsg_seq;
		}
	}
	b->length = 0;
}

static int rtnetlink(void) { return need(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "rtnetlink"); }

static void add_address(struct buffer *b, int index, uint32_t address)
{
	struct ifaddrmsg head = { .ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = index };
	struct nlmsghdr *m = message(b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof head);
	number(b, m, IFA_LOCAL, htonl(address));
	number(b, m, IFA_BROADCAST, htonl(address | 0xffff));
}

static void set_up(struct buffer *b, int index)
{
	struct ifinfomsg head = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
	message(b, RTM_NEWLINK, 0, &head, sizeof head);
}

static void make_bridge(int channel, struct buffer *b)
{
	struct ifinfomsg head = { 0 };
	uint8_t off = 0;
	struct nlmsghdr *m = message(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof head);
	text(b, m, IFLA_IFNAME, "floor0");
	number(b, m, IFLA_GROUP, GROUP);
	struct rtattr *info = attribute(b, m, IFLA_LINKINFO, NULL, 0);
	text(b, m, IFLA_INFO_KIND, "bridge");
	struct rtattr *data = attribute(b, m, IFLA_INFO_DATA, NULL, 0);
	attribute(b, m, IFLA_BR_MCAST_SNOOPING, &off, 1);
	end(b, data);
	end(b, info);
	flush(channel, b, "bridge");
	bridge = if_nametoindex("floor0");
	if (!bridge) fail("floor0");
	add_address(b, bridge, FIRST_ADDRESS - 1);
	flush(channel, b, "the bridge's address");
}

static void add_veth(struct buffer *b, int i)
{
	struct ifinfomsg near = { .ifi_flags = IFF_UP, .ifi_change = IFF_UP }, far = { 0 };
	char name[16];
	snprintf(name, sizeof name, "f%d", i);
	struct nlmsghdr *m = message(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &near, sizeof near);
	text(b, m, IFLA_IFNAME, name);
	number(b, m, IFLA_GROUP, GROUP);
	number(b, m, IFLA_MASTER, bridge);
	number(b, m, IFLA_NUM_TX_QUEUES, 1);
	number(b, m, IFLA_NUM_RX_QUEUES, 1);
	struct rtattr *info = attribute(b, m, IFLA_LINKINFO, NULL, 0);
	text(b, m, IFLA_INFO_KIND, "veth");
	struct rtattr *data = attribute(b, m, IFLA_INFO_DATA, NULL, 0);
	struct rtattr *peer = attribute(b, m, VETH_INFO_PEER, &far, sizeof far);
	text(b, m, IFLA_IFNAME, "eth0");
	number(b, m, IFLA_NET_NS_PID, containers[i].pid);
	number(b, m, IFLA_NUM_TX_QUEUES, 1);
	number(b, m, IFLA_NUM_RX_QUEUES, 1);
	end(b, peer);
	end(b, data);
	end(b, info);
}

static void configure_inside(struct buffer *b, int i)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/net", containers[i].pid);
	int namespace = need(open(path, O_RDONLY | O_CLOEXEC), path);
	need(setns(namespace, CLONE_NEWNET), path);
	close(namespace);
	int channel = rtnetlink();
	set_up(b, 1);
	set_up(b, 2); /* the first device behind lo */
	add_address(b, 2, FIRST_ADDRESS + i);
	struct rtmsg head = { .rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC,
		.rtm_type = RTN_UNICAST };
	struct nlmsghdr *m = message(b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof head);
	number(b, m, RTA_GATEWAY, htonl(FIRST_ADDRESS - 1));
	flush(channel, b, "inside");
	close(channel);
}

static void ask_for_link(struct buffer *b, int i)
{
	struct ifinfomsg head = { 0 };
	char name[16];
	snprintf(name, sizeof name, "f%d", i);
	struct nlmsghdr *m = message(b, RTM_GETLINK, 0, &head, sizeof head);
	text(b, m, IFLA_IFNAME, name);
	number(b, m, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
}

static void nft(const char *rules)
{
	int ends[2];
	need(pipe2(ends, O_CLOEXEC), "pipe");
	pid_t pid = need(vfork(), "vfork");
	if (!pid) {
		dup2(ends[0], 0);
		execlp("nft", "nft", "-f", "-", NULL);
		_exit(127);
	}
	need(write(ends[1], rules, strlen(rules)), "nft");
	close(ends[1]);
	close(ends[0]);
	waitpid(pid, NULL, 0);
}

/* -- up and down ------------------------------------------------------------------------------------- */

static void write_files(int i)
{
	char path[512], name[32];
	snprintf(path, sizeof path, "%s/%d", directory, i);
	need(mkdir(path, 0755), path);
	int at = need(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), path);
	snprintf(name, sizeof name, "h%d\n", i);
	put(at, "hostname", name);
	put(at, "hosts", "127.0.0.1 localhost\n");
	put(at, "resolv.conf", "nameserver 192.0.2.1\n");
	close(at);
}

static void make_container(int i, const int *home)
{
	char path[600];
	int into = -1, ends[2];
	if (!plain) write_files(i);
	for (int h = 0; h < hierarchies; h++) {
		snprintf(path, sizeof path, "%s/n%d", hierarchy[h], i);
		make_cgroup(path);
		if (is_v2[h]) into = need(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), path);
		else strcat(path, "/cgroup.procs"), put(AT_FDCWD, path, "0"); /* a child is born where its parent is */
	}
	(void)home;
	need(pipe2(ends, O_CLOEXEC), "pipe");
	struct clone_args how = { .exit_signal = SIGCHLD,
		.flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET };
	if (into >= 0) how.flags |= CLONE_INTO_CGROUP, how.cgroup = into;
	pid_t pid = need(syscall(SYS_clone3, &how, sizeof how), "clone3");
	if (!pid) first_process(i, ends[1]);
	containers[i] = (struct container){ .pid = pid, .ready = ends[0] };
	close(ends[1]);
	if (into >= 0) close(into);
}

static void go_home(void)
{
	char path[600];
	for (int h = 0; h < hierarchies; h++) {
		if (is_v2[h]) continue;
		snprintf(path, sizeof path, "%s", hierarchy[h]);
		strcpy(strrchr(path, '/'), "/cgroup.procs");
		put(AT_FDCWD, path, "0");
	}
}

static void up(struct buffer *b)
{
	int host = need(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "netns");
	int channel = rtnetlink();
	nft("table inet floor { chain nat { type nat hook postrouting priority 100; "
	    "ip saddr 10.200.0.0/16 oifname != floor0 masquerade; }; }\n");
	make_bridge(channel, b);
	for (int h = 0; h < hierarchies; h++) make_cgroup(hierarchy[h]);
	for (int i = 0; i < count; i++) make_container(i, NULL);
	go_home();
	for (int i = 0; i < count; i++) {
		char byte;
		if (read(containers[i].ready, &byte, 1) != 1) fail("a container");
		close(containers[i].ready);
	}
	for (int i = 0; i < count; i++) {
		add_veth(b, i);
		if (i % BATCH == BATCH - 1 || i == count - 1) flush(channel, b, "veth");
	}
	for (int i = 0; i < count; i++) configure_inside(b, i);
	need(setns(host, CLONE_NEWNET), "home");
	close(host);
	for (int i = 0; i < count; i++) { /* runs the link watch, so that the ports forward at once */
		ask_for_link(b, i);
		if (i % 8 == 7 || i == count - 1) flush(channel, b, "links");
	}
	set_up(b, bridge); /* last: each port that joins a bridge that is up costs more */
	flush(channel, b, "bridge up");
	close(channel);
}

static void down(struct buffer *b)
{
	char path[600];
	for (int i = 0; i < count; i++) kill(containers[i].pid, SIGKILL);
	for (int i = 0; i < count; i++) waitpid(containers[i].pid, NULL, 0);
	int channel = rtnetlink();
	struct ifinfomsg head = { 0 };
	number(b, message(b, RTM_DELLINK, 0, &head, sizeof head), IFLA_GROUP, GROUP);
	flush(channel, b, "delete");
	close(channel);
	for (int h = 0; h < hierarchies; h++) {
		for (int i = 0; i < count; i++) {
			snprintf(path, sizeof path, "%s/n%d", hierarchy[h], i);
			while (rmdir(path) && errno == EBUSY) usleep(200);
		}
		rmdir(hierarchy[h]);
	}
	for (int i = 0; i < count && !plain; i++)
		for (const char *const *name = (const char *[]){ "hosts", "hostname", "resolv.conf", "", NULL }; *name; name++) {
			snprintf(path, sizeof path, "%s/%d/%s", directory, i, *name);
			remove(path);
		}
	nft("delete table inet floor\n");
}

int main(int argc, char **argv)
{
	static struct buffer b;
	char line[16];
	if (argc < 3 || (count = atoi(argv[1])) < 1) {
		fprintf(stderr, "usage: floor N DIRECTORY [plain]\n");
		return 2;
	}
	directory = argv[2];
	plain = argc > 3 && !strcmp(argv[3], "plain");
	containers = calloc(count, sizeof *containers);
	struct rlimit files = { 65536, 65536 };
	setrlimit(RLIMIT_NOFILE, &files);
	find_hierarchies();
	double began = now();
	up(&b);
	double stood = now();
	printf("{\"up\": %.6f, \"pids\": [%d, %d]}\n", stood - began, containers[0].pid, containers[count - 1].pid);
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin)) line[0] = 0;
	began = now();
	down(&b);
	printf("{\"down\": %.6f}\n", now() - began);
	return 0;
}
