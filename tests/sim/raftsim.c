/*
 * raftsim: runs simulated groups from seeds, and reports what a seed found so that it can be run
 * again. docs/internals/simulation.md is the manual.
 *
 * A sweep is forked into jobs; a job runs its share of the seeds in one process, until one fails.
 * The parent then runs that seed again in a process of its own, with the readable trace on, and
 * starts the job anew behind it.
 */
#include "tests/sim/raftsim.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/invariant.h"
#include "commit.h" /* made by the build */
#include "tests/sim/lite.h"
#include "tests/sim/text.h"
#include "tests/sim/whole.h"
#include "tests/sim/world.h"

#define JOBS_MAX          64
#define MARKS_MAX         512
#define REPORT_LINES      200
#define FAILURES_DEFAULT  20 /* then a sweep ends */
#define CHECK_DETERMINISM 20 /* one seed in so many runs twice */

/* What a job tells its parent; in shared memory. */
struct job {
    uint64_t at; /* which of the seeds is under way */
    uint64_t seeds, events, simulated_ns, operations, commits, leaderships, crashes;
    uint64_t hash; /* of all runs, in any order */
    uint64_t second_hash;
    uint64_t marks[MARKS_MAX];
};

struct sweep {
    struct raftsim_options options;
    const char *program;
    const char *plant;
    uint64_t first, count;
    uint64_t *pinned; /* the seeds instead of first + at, or NULL */
    uint32_t jobs;
    bool lite, print_marks, all_twice, brief;
    uint32_t failures_max;
    struct job *job; /* array, shared */
    uint32_t failures;
};

static const char usage_text[] =
    "usage: raftsim [--lite] [--seed=S | --seeds=N [--first=S]] [options]\n"
    "  --seed=S     run one seed (0x.. or decimal) and print its report\n"
    "  --seeds=N    run N seeds, from --first (default 1)\n"
    "  --jobs=J     processes for a sweep (default 1)\n"
    "  --lite       consensus only: abstract messages and disks; without it whole nodes\n"
    "  --nodes=N    voters at the start, instead of a draw\n"
    "  --calm=R     whole nodes: 3 of 4 cores, no harm, about R calls a second: measures speed\n"
    "  --trace      print one line per event while it runs (with --seed)\n"
    "  --log        the nodes' own log lines too, to stderr\n"
    "  --until=E    stop at event E\n"
    "  --minimise   leave out each kind of harm that the seed fails without, then report it "
    "(--lite)\n"
    "  --harm=LIST  do only these kinds of harm, as --minimise found them (--lite)\n"
    "  --twice      run every seed twice and compare (default: one in 20)\n"
    "  --failures=N end a sweep after N failures (default 20)\n"
    "  --brief      name failing seeds only, without their reports\n"
    "  --plant=NAME make that mistake (cmake -DRAFT_PLANTED_BUGS=ON), to see it found\n"
    "  --marks      list coverage marks that were never hit\n"
    "  --pinned=F   run the seeds that file F lists, one at the start of each line\n"
    "exit: 0 pass, 2 usage, 127 crash, 128 no progress, 129 safety, 130 nondeterminism\n";

static const char *outcome_name(enum sim_outcome outcome)
{
    switch (outcome) {
    case SIM_PASS:
        return "pass";
    case SIM_USAGE:
        return "usage";
    case SIM_CRASH:
        return "crash";
    case SIM_LIVENESS:
        return "no progress";
    case SIM_SAFETY:
        return "safety";
    case SIM_NONDETERMINISM:
        return "nondeterminism";
    }
    return "unknown";
}

/* ---- one seed ------------------------------------------------------------------------------- */

static void run_seed(const struct sweep *sweep, uint64_t seed, struct raftsim_result *result)
{
    struct raftsim_options options = sweep->options;
    options.seed = seed;
    if (sweep->lite)
        lite_run(&options, result);
    else
        whole_run(&options, result);
}

static void print_options(const struct sweep *sweep, uint64_t seed)
{
    struct raftsim_options options = sweep->options;
    options.seed = seed;
    if (sweep->lite) {
        struct lite_config config;
        lite_config_draw(&config, &options);
        lite_config_print(&config, stderr);
    } else {
        struct whole_config config;
        whole_config_draw(&config, &options);
        whole_config_print(&config, stderr);
    }
}

/* ` --harm=LIST` of what is not spared; nothing when all is done. */
static int format_harm(uint64_t spared, char *to, size_t size)
{
    const char *separator = "";
    int at = spared == 0 ? 0 : snprintf(to, size, " --harm=");
    for (uint32_t i = 0; spared != 0 && lite_harm_name(i) != NULL; i++) {
        if ((spared >> i & 1) != 0)
            continue;
        at += snprintf(to + at, size - (size_t)at, "%s%s", separator, lite_harm_name(i));
        separator = ",";
    }
    return at;
}

static bool parse_harm(const char *list, uint64_t *spared)
{
    *spared = ~UINT64_C(0);
    while (*list != '\0') {
        size_t length = strcspn(list, ",");
        uint32_t i = 0;
        while (lite_harm_name(i) != NULL && (strlen(lite_harm_name(i)) != length ||
                                             strncmp(list, lite_harm_name(i), length) != 0))
            i++;
        if (lite_harm_name(i) == NULL)
            return false;
        *spared &= ~(UINT64_C(1) << i);
        list += length + (list[length] == ',');
    }
    return true;
}

static void print_head(const struct sweep *sweep, uint64_t seed)
{
    char extra[512] = "";
    int at = 0;
    const char *size = sweep->lite ? " --lite" : "";
    if (sweep->options.nodes != 0)
        at = snprintf(extra, sizeof(extra), " --nodes=%u", sweep->options.nodes);
    if (sweep->options.calm != 0)
        at += snprintf(extra + at, sizeof(extra) - (size_t)at, " --calm=%u", sweep->options.calm);
    at += format_harm(sweep->options.spared, extra + at, sizeof(extra) - (size_t)at);
    if (sweep->plant != NULL)
        snprintf(extra + at, sizeof(extra) - (size_t)at, " --plant=%.40s", sweep->plant);
    fflush(stdout);
    fprintf(stderr, "replay: %s%s --seed=0x%" PRIx64 "%s\n", sweep->program, size, seed, extra);
    fprintf(stderr, "commit %s%s, %s\n", SIM_COMMIT, SIM_DIRTY ? " with changes" : "", SIM_BUILD);
    print_options(sweep, seed);
    sim_set_replay("%s%s --seed=0x%" PRIx64 "%s", sweep->program, size, seed, extra);
}

/* The report of one seed. Does not return when production code aborts. */
static enum sim_outcome replay(const struct sweep *sweep, uint64_t seed, bool trace)
{
    struct raftsim_result result;
    print_head(sweep, seed);
    sim_text_start(trace ? stdout : NULL, REPORT_LINES);
    run_seed(sweep, seed, &result);
    if (result.verdict.outcome != SIM_PASS) {
        sim_text_dump(stderr);
        fprintf(stderr, "%s: event %" PRIu64 ": %s\n", outcome_name(result.verdict.outcome),
                result.events, result.verdict.text);
        fprintf(stderr, "replay: %s\n", sim_replay());
        return result.verdict.outcome;
    }
    printf("pass: seed 0x%" PRIx64 ", hash %016" PRIx64 ", %" PRIu64 " events, %.1f simulated s, "
           "%" PRIu64 " operations, %" PRIu64 " commits, %" PRIu64 " leaderships, %" PRIu64
           " crashes\n",
           seed, result.hash, result.events, (double)result.simulated_ns / 1e9, result.operations,
           result.commits, result.leaderships, result.crashes);
    return SIM_PASS;
}

static enum sim_outcome status_outcome(int status)
{
    if (WIFSIGNALED(status))
        return SIM_CRASH;
    switch (WEXITSTATUS(status)) {
    case SIM_PASS:
        return SIM_PASS;
    case SIM_LIVENESS:
        return SIM_LIVENESS;
    case SIM_SAFETY:
        return SIM_SAFETY;
    case SIM_NONDETERMINISM:
        return SIM_NONDETERMINISM;
    default:
        return SIM_CRASH;
    }
}

/* Of a run without a report, in a process of its own. */
static enum sim_outcome outcome_of(const struct sweep *sweep, uint64_t seed)
{
    fflush(stdout);
    pid_t child = fork();
    invariant(child >= 0);
    if (child == 0) {
        struct raftsim_result result;
        sim_fail_by_exit();
        sim_set_replay("this try");
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(SIM_USAGE);
        run_seed(sweep, seed, &result);
        _exit((int)result.verdict.outcome);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status_outcome(status);
}

/* Kinds of harm go one by one while the seed still fails in the same way, until none can go: of
 * what is left nothing can be missed alone. */
static void minimise(struct sweep *sweep, uint64_t seed)
{
    enum sim_outcome outcome = outcome_of(sweep, seed);
    bool again = outcome != SIM_PASS;
    while (again) {
        again = false;
        for (uint32_t i = 0; lite_harm_name(i) != NULL; i++) {
            uint64_t before = sweep->options.spared;
            sweep->options.spared |= UINT64_C(1) << i;
            if (sweep->options.spared == before)
                continue;
            if (outcome_of(sweep, seed) == outcome)
                again = true;
            else
                sweep->options.spared = before;
        }
    }
}

/* ---- sweeps --------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t seed, uint64_t hash)
{
    uint64_t mixed = (seed * 0x9e3779b97f4a7c15u) ^ hash;
    return (mixed ^ mixed >> 31) * 0xbf58476d1ce4e5b9u;
}

/* The same seed once more, in another process, with other memory around. */
static bool runs_alike(const struct sweep *sweep, struct job *job, uint64_t seed, uint64_t hash)
{
    pid_t child = fork();
    invariant(child >= 0);
    if (child == 0) {
        struct raftsim_result result;
        memset(__builtin_alloca(seed % 4096 + 65536), 0x5a, 65536);
        char *shift = malloc(seed % 100000 + 1);
        run_seed(sweep, seed, &result);
        free(shift);
        job->second_hash = result.hash;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status == 0 && job->second_hash == hash;
}

static uint64_t seed_at(const struct sweep *sweep, uint64_t at)
{
    return sweep->pinned != NULL ? sweep->pinned[at] : sweep->first + at;
}

static void job_run(const struct sweep *sweep, struct job *job, uint64_t at)
{
    sim_fail_by_exit();
    sim_set_replay("this sweep");
    if (freopen("/dev/null", "w", stderr) == NULL)
        _exit(SIM_USAGE);
    for (; at < sweep->count; at += sweep->jobs) {
        struct raftsim_result result;
        uint64_t seed = seed_at(sweep, at);
        job->at = at;
        run_seed(sweep, seed, &result);
        sim_marks_take(job->marks); /* now, for the next seed may end this process */
        if (result.verdict.outcome != SIM_PASS)
            _exit((int)result.verdict.outcome);
        if ((sweep->all_twice || seed % CHECK_DETERMINISM == 0) &&
            !runs_alike(sweep, job, seed, result.hash))
            _exit(SIM_NONDETERMINISM);
        job->seeds++;
        job->events += result.events;
        job->simulated_ns += result.simulated_ns;
        job->operations += result.operations;
        job->commits += result.commits;
        job->leaderships += result.leaderships;
        job->crashes += result.crashes;
        job->hash ^= mix(seed, result.hash);
    }
    _exit(SIM_PASS);
}

static pid_t job_start(const struct sweep *sweep, uint32_t job, uint64_t at)
{
    fflush(stdout);
    pid_t child = fork();
    invariant(child >= 0);
    if (child == 0)
        job_run(sweep, &sweep->job[job], at);
    return child;
}

static void report_failure(struct sweep *sweep, uint64_t seed, enum sim_outcome outcome)
{
    sweep->failures++;
    fflush(stdout);
    fprintf(stderr, "FAIL seed 0x%" PRIx64 ": %s\n", seed, outcome_name(outcome));
    if (sweep->brief)
        return;
    if (outcome == SIM_NONDETERMINISM) {
        print_head(sweep, seed);
        fprintf(stderr, "two runs of it differ: compare two outputs of --trace\n");
        return;
    }
    pid_t child = fork();
    invariant(child >= 0);
    if (child == 0) {
        sim_fail_by_exit();
        _exit((int)replay(sweep, seed, false));
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status_outcome(status) != outcome)
        fprintf(stderr, "nondeterminism: another outcome this time: %s\n",
                outcome_name(status_outcome(status)));
}

static enum sim_outcome sweep_run(struct sweep *sweep)
{
    pid_t pids[JOBS_MAX] = {0};
    enum sim_outcome worst = SIM_PASS;
    uint32_t running = 0;
    sweep->job = mmap(NULL, sizeof(struct job) * sweep->jobs, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    invariant(sweep->job != MAP_FAILED);
    for (uint32_t i = 0; i < sweep->jobs; i++, running++)
        pids[i] = job_start(sweep, i, i);
    while (running > 0) {
        int status = 0;
        pid_t pid = wait(&status);
        uint32_t at = 0;
        while (at < sweep->jobs && pids[at] != pid)
            at++;
        invariant(at < sweep->jobs);
        running--;
        enum sim_outcome outcome = status_outcome(status);
        if (outcome == SIM_PASS)
            continue;
        worst = outcome > worst ? outcome : worst;
        uint64_t failed = sweep->job[at].at;
        report_failure(sweep, seed_at(sweep, failed), outcome);
        if (failed + sweep->jobs < sweep->count && sweep->failures < sweep->failures_max) {
            pids[at] = job_start(sweep, at, failed + sweep->jobs);
            running++;
        }
    }
    return worst;
}

static void print_summary(const struct sweep *sweep, double seconds)
{
    struct job sum = {0};
    for (uint32_t i = 0; i < sweep->jobs; i++) {
        const struct job *job = &sweep->job[i];
        sum.seeds += job->seeds;
        sum.events += job->events;
        sum.simulated_ns += job->simulated_ns;
        sum.operations += job->operations;
        sum.commits += job->commits;
        sum.leaderships += job->leaderships;
        sum.crashes += job->crashes;
        sum.hash ^= job->hash;
        sim_marks_add(job->marks);
    }
    uint32_t hit = sim_marks_report(sweep->print_marks);
    printf("%" PRIu64 " seeds passed, %u failed; hash %016" PRIx64 "; %" PRIu64
           " events, %.0f simulated s, %" PRIu64 " operations, %" PRIu64 " commits, %" PRIu64
           " leaderships, %" PRIu64 " crashes; marks %u/%u; %.1f s real, %.2f M events/s\n",
           sum.seeds, sweep->failures, sum.hash, sum.events, (double)sum.simulated_ns / 1e9,
           sum.operations, sum.commits, sum.leaderships, sum.crashes, hit, sim_marks_count(),
           seconds, (double)sum.events / seconds / 1e6);
}

/* ---- command line --------------------------------------------------------------------------- */

static int usage(void)
{
    fputs(usage_text, stderr);
    return SIM_USAGE;
}

/* Lines that do not begin with a number are comments. */
static bool read_pinned(struct sweep *sweep, const char *path)
{
    FILE *file = fopen(path, "r");
    char line[512];
    if (file == NULL)
        return false;
    while (fgets(line, sizeof(line), file) != NULL) {
        uint64_t seed = strtoull(line, NULL, 0);
        if (seed == 0)
            continue;
        sweep->pinned = realloc(sweep->pinned, (sweep->count + 1) * sizeof(seed));
        invariant(sweep->pinned != NULL);
        sweep->pinned[sweep->count++] = seed;
    }
    fclose(file);
    return sweep->count > 0;
}

static double real_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    enum {
        SEED = 1,
        SEEDS,
        FIRST,
        JOBS,
        LITE,
        NODES,
        TRACE,
        UNTIL,
        TWICE,
        MARKS,
        PINNED,
        FAILURES,
        BRIEF,
        LOG,
        CALM,
        PLANT,
        HARM,
        MINIMISE
    };
    static const struct option long_options[] = {{"seed", required_argument, NULL, SEED},
                                                 {"seeds", required_argument, NULL, SEEDS},
                                                 {"first", required_argument, NULL, FIRST},
                                                 {"jobs", required_argument, NULL, JOBS},
                                                 {"lite", no_argument, NULL, LITE},
                                                 {"nodes", required_argument, NULL, NODES},
                                                 {"trace", no_argument, NULL, TRACE},
                                                 {"until", required_argument, NULL, UNTIL},
                                                 {"twice", no_argument, NULL, TWICE},
                                                 {"marks", no_argument, NULL, MARKS},
                                                 {"pinned", required_argument, NULL, PINNED},
                                                 {"failures", required_argument, NULL, FAILURES},
                                                 {"brief", no_argument, NULL, BRIEF},
                                                 {"log", no_argument, NULL, LOG},
                                                 {"calm", required_argument, NULL, CALM},
                                                 {"plant", required_argument, NULL, PLANT},
                                                 {"harm", required_argument, NULL, HARM},
                                                 {"minimise", no_argument, NULL, MINIMISE},
                                                 {NULL, 0, NULL, 0}};
    struct sweep sweep = {
        .program = argv[0], .first = 1, .jobs = 1, .failures_max = FAILURES_DEFAULT};
    uint64_t seed = 0;
    bool trace = false, smallest = false;
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        uint64_t number = optarg == NULL ? 0 : strtoull(optarg, NULL, 0);
        switch (option) {
        case SEED:
            seed = number;
            break;
        case SEEDS:
            sweep.count = number;
            break;
        case FIRST:
            sweep.first = number;
            break;
        case JOBS:
            sweep.jobs = (uint32_t)number;
            break;
        case LITE:
            sweep.lite = true;
            break;
        case NODES:
            sweep.options.nodes = (uint32_t)number;
            break;
        case TRACE:
            trace = true;
            break;
        case UNTIL:
            sweep.options.until = number;
            break;
        case TWICE:
            sweep.all_twice = true;
            break;
        case FAILURES:
            sweep.failures_max = (uint32_t)number;
            break;
        case BRIEF:
            sweep.brief = true;
            break;
        case LOG:
            sweep.options.log = true;
            break;
        case PLANT:
            if (!sim_plant(optarg))
                return usage();
            sweep.plant = optarg;
            break;
        case HARM:
            if (!parse_harm(optarg, &sweep.options.spared))
                return usage();
            break;
        case MINIMISE:
            smallest = true;
            break;
        case CALM:
            sweep.options.calm = (uint32_t)number;
            break;
        case MARKS:
            sweep.print_marks = true;
            break;
        case PINNED:
            if (!read_pinned(&sweep, optarg))
                return usage();
            break;
        default:
            return usage();
        }
    }
    if (optind != argc || (seed == 0) == (sweep.count == 0) || sweep.jobs == 0 ||
        sweep.jobs > JOBS_MAX || sweep.options.nodes > 9 || (smallest && seed == 0) ||
        (!sweep.lite && (smallest || sweep.options.spared != 0)))
        return usage();
    if (sim_marks_count() > MARKS_MAX)
        return SIM_USAGE;
    if (seed != 0) {
        if (smallest)
            minimise(&sweep, seed);
        sim_fail_by_exit();
        return (int)replay(&sweep, seed, trace);
    }
    double began = real_seconds();
    enum sim_outcome worst = sweep_run(&sweep);
    print_summary(&sweep, real_seconds() - began);
    free(sweep.pinned);
    return (int)worst;
}
