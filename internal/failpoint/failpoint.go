// Package failpoint names the points at which a crash hurts most: around each
// commit, acknowledgement and rename. In a release build [Hit] is nothing at
// all. In a binary built with the tag failpoints:
//
//	MLAAS_FAILPOINT=store.commit.before    dies there, as by kill -9
//	MLAAS_FAILPOINT=store.commit.before#3  dies there the third time
//	MLAAS_FAILPOINT_LIST=FILE              appends each name to FILE when it is first passed
//
// so that a test enumerates the points by running once, and then crashes at
// each.
package failpoint
